#include "training/torch_errors.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {

absl::Status CatchTorch(const std::string& what, const std::function<absl::Status()>& function) {
  try {
    return function();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    // The CPU's allocator has no exception of its own.
    if (absl::StrContains(message, "DefaultCPUAllocator")) {
      return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory: ", message));
    }
    return absl::InternalError(absl::StrCat(what, ": ", message));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace spotlight::training
