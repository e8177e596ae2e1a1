// Where evaluation's own tensor work ends: torch's exceptions become Status here.
#pragma once

#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <exception>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace spotlight::training {

// Runs `work`, which returns a StatusOr, without autograd. `what` begins the message of an error that was thrown.
template <typename Work>
auto AtTorchBoundary(absl::string_view what, const Work& work) -> decltype(work()) {
  try {
    const c10::AutoGradMode no_autograd(false);
    return work();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace spotlight::training
