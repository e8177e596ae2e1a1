#pragma once

#include <string>

#include "absl/types/optional.h"
#include "engine/response_sink.h"

namespace spotlight::engine {

// Which of the running requests of one id are to be ended: several callers may use it.
struct CancelScope {
  // Only the one that was submitted with this sink: once that ends its id may be another's. Null: any.
  const ResponseSink* submission = nullptr;
  absl::optional<std::string> caller = absl::nullopt;  // only this one's; absent: every caller's
};

}  // namespace spotlight::engine
