#include "engine/torch_status.h"

#include <cuda_runtime_api.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

bool IsOutOfMemory(const c10::Error& error, const std::string& message) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  const auto* const accelerator = dynamic_cast<const c10::AcceleratorError*>(&error);
  if (accelerator != nullptr && accelerator->get_error_code() == cudaErrorMemoryAllocation) return true;
  // cuBLAS and cuDNN: CUBLAS_STATUS_ALLOC_FAILED and the like.
  return absl::StrContains(message, "_ALLOC_FAILED") || absl::StrContains(message, "_ALLOCATION_FAILED");
}

}  // namespace

absl::Status StatusOf(const c10::Error& error, absl::string_view doing) {
  const std::string message = error.what_without_backtrace();
  if (!IsOutOfMemory(error, message)) return absl::InternalError(absl::StrCat(doing, ": ", message));
  return absl::ResourceExhaustedError(absl::StrCat(doing, ": out of memory: ", message));
}

}  // namespace spotlight::engine
