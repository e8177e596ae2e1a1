// LibTorch's exceptions as statuses.
#pragma once

#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spotlight::engine {

// RESOURCE_EXHAUSTED "DOING: out of memory: ..." where memory was short, for LibTorch's allocator, CUDA, or a library
// that found none for its workspace; else INTERNAL "DOING: ...".
absl::Status StatusOf(const c10::Error& error, absl::string_view doing);

}  // namespace spotlight::engine
