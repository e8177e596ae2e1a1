// A run's figures from its requests' records.
//
// The definitions are those of `vllm bench serve`, but for where latencies begin: in an open loop at the time that the
// request was meant to be sent, there at the time it was sent; the figures from the sending stand beside them. Only
// completed requests count in latencies, lengths and throughput.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "client/bench/request_record.h"
#include "client/bench/statistics.h"

namespace spotlight::client::bench {

// Milliseconds; absent: no bound.
struct Goodput {
  absl::optional<double> ttft, tpot, e2el;

  bool any() const { return ttft.has_value() || tpot.has_value() || e2el.has_value(); }
};

// The failures with one status.
struct Failures {
  int64_t count = 0;
  std::string first_message;
  std::vector<double> seconds;  // from sending to the status
};

// Seconds, unless named otherwise.
struct Summary {
  double duration = 0;  // to the last request's end
  int64_t completed = 0, failed = 0, cancelled = 0;
  std::map<std::string, Failures> failures;  // by status name
  int64_t prompt_tokens = 0, output_tokens = 0;
  int64_t received_tokens = 0;  // with those of failed and cancelled requests
  int64_t messages = 0;         // with tokens, of completed requests; fewer than tokens where the server merges
  double request_throughput = 0, output_throughput = 0, total_token_throughput = 0;
  double peak_output_throughput = 0;  // in the best whole second
  int64_t peak_concurrency = 0;
  double request_goodput = 0;  // requests a second within the Goodput bounds
  Statistics ttft, tpot, itl, e2el;
  Statistics ttft_from_send, e2el_from_send;
  Statistics queue;   // from when the request was to be sent to its sending, of all requests
  Statistics cancel;  // from the client's cancel to the call's end
};

double TtftOf(const RequestRecord& record);  // from the intended time
double TpotOf(const RequestRecord& record);  // 0 with fewer than two tokens
double E2elOf(const RequestRecord& record);

Summary SummarizeRun(const std::vector<RequestRecord>& records, const Goodput& goodput,
                     const std::vector<double>& percentiles);

// "RESOURCE_EXHAUSTED".
std::string CodeName(grpc::StatusCode code);

}  // namespace spotlight::client::bench
