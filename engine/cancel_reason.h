#pragma once

#include <cstdint>

namespace spotlight::engine {

// Why a request is ended from outside: its client went away, Abort named it, its deadline passed, the server stops.
enum class CancelReason : uint8_t { kClientGone, kAborted, kDeadline, kShutdown };

}  // namespace spotlight::engine
