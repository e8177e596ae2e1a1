// One streaming call with a stopwatch on every message. gRPC's own threads run it: no thread of ours waits for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "client/bench/request_record.h"
#include "client/bench/workload.h"
#include "client/cancellation.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"

namespace spotlight::client::bench {

using Clock = std::chrono::steady_clock;

inline double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// What calls tell while they run.
struct LiveCounts {
  std::atomic<int64_t> tokens{0};
};

// Made, started once, and destroyed after `on_done` was called with it, which is the last thing that it does.
class StreamCall final : public grpc::ClientReadReactor<v1::GenerateStreamResponse> {
 public:
  // `run_start` is the zero of the record's times. `cancellation` and `counts` outlive the call.
  StreamCall(WorkItem item, Clock::time_point run_start, double intended_seconds, Cancellation* cancellation,
             LiveCounts* counts, std::function<void(StreamCall*)> on_done);

  // Sends the request. An infinite `deadline` is none.
  void Start(v1::Generation::Stub* stub, absl::Duration deadline);

  // Only after on_done.
  RequestRecord& record() { return record_; }

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void OnTokens(int32_t num_tokens, double now);

  const Clock::time_point run_start_;
  WorkItem item_;
  LiveCounts* const counts_;
  const std::function<void(StreamCall*)> on_done_;
  RequestRecord record_;
  double cancelled_at_ = 0;
  grpc::ClientContext context_;
  const Cancellation::Scope scope_;
  v1::GenerateStreamResponse message_;
};

}  // namespace spotlight::client::bench
