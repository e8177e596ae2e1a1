// spotlight-bench without main().
#pragma once

#include <string>

#include "absl/types/span.h"
#include "client/console.h"
#include "client/exit_code.h"

namespace spotlight::client::bench {

// kExitOk when at least one request was completed or cancelled on purpose; else what the most frequent failure's status
// is in exit_code.h. kExitCancelled when interrupted, with the figures so far.
ExitCode RunBench(absl::Span<const std::string> arguments, const Console& console, bool show_progress);

}  // namespace spotlight::client::bench
