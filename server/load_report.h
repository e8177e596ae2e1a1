// How loaded the server is, as load balancers read it: Open Request Cost Aggregation (ORCA).
//   application_utilization  what is scarcest: the KV cache's used share, or running and waiting requests over what may
//                            run at once (above 1 while requests wait)
//   utilization              kv_cache, running: each 0 to 1
//   named_metrics            the gauges of /metrics without their prefix
//   rps_fractional, eps      generation calls that ended, and those that failed by the server's fault, over about ten
//                            seconds; what a caller's own limits or its share of a queue refuse is not
//   request_cost             of the call that carries the report: prompt_tokens, cached_prompt_tokens,
//   completion_tokens
#pragma once

#include <string>

#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "server/call_record.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace spotlight::server {

// Events a second, older ones counting less and less. Thread-compatible.
class EventRate {
 public:
  void Add(absl::Duration now);
  double PerSecond(absl::Duration now) const;

 private:
  double per_second_ = 0;  // at last_
  absl::Duration last_;
};

// Thread-safe.
class LoadReporter {
 public:
  explicit LoadReporter(const engine::Clock* clock = engine::Clock::Steady()) : clock_(clock) {}

  void OnCallEnd(const CallRecord& record);

  // `engine` may be null: not loaded yet.
  xds::data::orca::v3::OrcaLoadReport Report(const engine::Engine* engine) const;

 private:
  const engine::Clock* const clock_;
  mutable Mutex mutex_;
  EventRate calls_ ABSL_GUARDED_BY(mutex_);
  EventRate errors_ ABSL_GUARDED_BY(mutex_);
};

// The report with what this call cost.
std::string LoadReportTrailer(xds::data::orca::v3::OrcaLoadReport report, const CallRecord& record);

}  // namespace spotlight::server
