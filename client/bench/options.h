// spotlight-bench's flags.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "client/bench/load_run.h"
#include "client/bench/summary.h"
#include "client/bench/workload.h"
#include "client/command_line.h"
#include "client/connection.h"

namespace spotlight::client::bench {

// A value as parsed; FinishOptions sets the rest of `load` and `workload` from it.
struct BenchOptions {
  explicit BenchOptions(const Console& console) : connection(console) {}
  BenchOptions(const BenchOptions&) = delete;
  BenchOptions& operator=(const BenchOptions&) = delete;

  ConnectionFlags connection;
  int32_t num_connections = 0;  // 0: as many as the requests at a time need
  LoadOptions load;
  int32_t num_warmups = 0;
  WorkloadOptions workload;
  std::string dataset;  // a file's name, "-" for stdin; empty: random prompts
  absl::optional<LengthRange> input_len;
  absl::optional<uint64_t> num_prompts;
  Goodput goodput;
  std::vector<double> percentiles = {50, 90, 95, 99};
  std::string metrics_url;
  std::string result_filename;  // "-" is stdout
  bool save_detailed = false;
  std::string label;
  std::vector<std::pair<std::string, std::string>> metadata;
};

// The flags write to *options, which outlives the command.
Command BenchCommand(BenchOptions* options);

// "--goodput ttft:500 tpot:50" as one argument "--goodput ttft:500,tpot:50": every other flag takes one word.
std::vector<std::string> JoinGoodput(absl::Span<const std::string> arguments);

// What only all flags together tell: contradictions, and defaults that depend on each other.
absl::Status FinishOptions(BenchOptions* options);

}  // namespace spotlight::client::bench
