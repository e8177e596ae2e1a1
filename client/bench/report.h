// A run's figures for people and for programs.
#pragma once

#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "client/bench/options.h"
#include "client/bench/request_record.h"
#include "client/bench/server_metrics.h"
#include "client/bench/summary.h"

namespace spotlight::client::bench {

struct ServerReadings {
  MetricSamples before, after;
};

struct BenchResult {
  std::string date;      // 20260131-235959, local time
  std::string model_id;  // as the server names it
  std::vector<RequestRecord> records;
  Summary summary;
  double client_cpu_seconds = 0;  // of this process, user and system, during the run
  absl::optional<ServerReadings> server;

  double client_cpu_us_per_token() const {
    return summary.received_tokens > 0 ? client_cpu_seconds * 1e6 / summary.received_tokens : 0;
  }
};

std::string FormatTable(const BenchOptions& options, const BenchResult& result);

// One JSON object. Names and units of `vllm bench serve`'s result file where it has the figure; what it has not is
// named after the same fashion.
std::string FormatJson(const BenchOptions& options, const BenchResult& result);

}  // namespace spotlight::client::bench
