// A refusal for want of cache that no waiting cures: a mark that travels with a status whose code is the request's
// fault.
#pragma once

#include "absl/status/status.h"

namespace spotlight::engine {

// `status`, of a request that the whole KV cache cannot hold.
absl::Status OverKvCapacity(absl::Status status);

bool IsOverKvCapacity(const absl::Status& status);

}  // namespace spotlight::engine
