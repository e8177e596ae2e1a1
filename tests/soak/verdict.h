// What must hold after a soak.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/bench/server_metrics.h"
#include "tests/soak/client_stream.h"
#include "tests/soak/server_process.h"

namespace spotlight::soak {

// A time in which this process, or a thread of the server, was ready to run and had no core: gaps within it are the
// machine's.
struct MachineStall {
  std::chrono::steady_clock::time_point begin, end;
};

// One line for every request that did not end exactly once with a status that its behaviour allows, on both sides.
std::vector<std::string> CheckEnds(const std::vector<StreamEnd>& ends, const std::map<std::string, LoggedEnd>& log);

// A stream that takes each message as it comes, to the end.
bool ReadsAll(const StreamEnd& end);

// One line for every stream that reads all with a gap over `bound_seconds` between two messages.
std::vector<std::string> CheckGaps(const std::vector<StreamEnd>& ends, std::vector<MachineStall> stalls,
                                   double bound_seconds);

// Ends by behaviour and status, for people.
std::string FormatEnds(const std::vector<StreamEnd>& ends);

// What the engine did between two readings of the server's metrics, `seconds` apart, for people; or why it is not
// known.
std::string FormatProgress(const absl::StatusOr<client::bench::MetricSamples>& before,
                           const absl::StatusOr<client::bench::MetricSamples>& after, double seconds);

}  // namespace spotlight::soak
