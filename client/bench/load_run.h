// Sends the requests of a workload when they are due and collects what became of them.
//
// Open loop (a finite rate): request i is due at a time that was drawn before anything was sent and that no answer
// changes, and its latencies count from that time. A server that stalls, or a client that comes late, therefore shows
// in the latencies of all requests that were due meanwhile (no coordinated omission). Closed loop: a request is due
// when a place is free, and its latencies count from when it is sent.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "client/bench/request_record.h"
#include "client/bench/workload.h"
#include "client/cancellation.h"
#include "grpcpp/channel.h"

namespace spotlight::client::bench {

struct LoadOptions {
  double request_rate =
      std::numeric_limits<double>::infinity();  // a second; infinite with max_concurrency: closed loop
  double burstiness = 1;
  int32_t max_concurrency = 0;  // 0: no bound
  uint64_t num_requests = std::numeric_limits<uint64_t>::max();
  double duration_seconds = std::numeric_limits<double>::infinity();  // nothing is sent after it
  uint64_t first_index = 0;                                           // of the workload
  uint64_t seed = 0;
  absl::Duration deadline = absl::InfiniteDuration();  // of each call, from its sending

  bool is_open_loop() const { return request_rate < std::numeric_limits<double>::infinity(); }
};

struct LoadProgress {
  double seconds = 0;
  uint64_t sent = 0;
  uint64_t ended = 0;
  uint64_t failed = 0;
  int64_t tokens = 0;
};

// Blocks until all calls have ended. Calls take the channels in turn. A cancel ends what runs and sends no more.
// `on_progress`, which may be null, comes about once a second in this thread.
std::vector<RequestRecord> RunLoad(const LoadOptions& options, const Workload& workload,
                                   const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                   Cancellation* cancellation,
                                   const std::function<void(const LoadProgress&)>& on_progress);

}  // namespace spotlight::client::bench
