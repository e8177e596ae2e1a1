#include "server/load_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/string_view.h"
#include "server/grpc_status.h"

namespace spotlight::server {
namespace {

constexpr double kTimeConstantSeconds = 10;

bool IsGeneration(absl::string_view method) {
  return method == "Generate" || method == "GenerateStream";
}

// What balancers should hold against this server; a client that leaves, asks for nonsense or for more than its token
// allows, fills its share of a queue, or does not read, is none of it.
bool IsServersFault(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return true;
    case absl::StatusCode::kResourceExhausted: {
      const absl::string_view subject = SplitSubject(status.message()).subject;
      return subject != "caller_rate" && subject != "caller_concurrency" && subject != "caller_share" &&
             subject != "unread_bytes" && subject != "answer_bytes";
    }
    default:
      return false;
  }
}

}  // namespace

double EventRate::PerSecond(absl::Duration now) const {
  return per_second_ * std::exp(-absl::ToDoubleSeconds(now - last_) / kTimeConstantSeconds);
}

void EventRate::Add(absl::Duration now) {
  per_second_ = PerSecond(now) + 1 / kTimeConstantSeconds;
  last_ = now;
}

void LoadReporter::OnCallEnd(const CallRecord& record) {
  if (!IsGeneration(record.method)) return;
  const absl::Duration now = clock_->Now();
  MutexLock lock(&mutex_);
  calls_.Add(now);
  if (IsServersFault(record.status)) errors_.Add(now);
}

xds::data::orca::v3::OrcaLoadReport LoadReporter::Report(const engine::Engine* engine) const {
  xds::data::orca::v3::OrcaLoadReport report;
  {
    const absl::Duration now = clock_->Now();
    MutexLock lock(&mutex_);
    report.set_rps_fractional(calls_.PerSecond(now));
    report.set_eps(errors_.PerSecond(now));
  }
  if (engine == nullptr) return report;
  const engine::EngineLoad load = engine->Load();
  const int32_t max_running = std::max(engine->options().scheduler.max_running, 1);
  const double kv_cache = load.num_pages > 0 ? 1 - static_cast<double>(load.num_free_pages) / load.num_pages : 0;
  const double requests = static_cast<double>(load.num_running + load.num_waiting) / max_running;
  report.set_application_utilization(std::max(kv_cache, requests));
  auto& utilization = *report.mutable_utilization();
  utilization["kv_cache"] = kv_cache;
  utilization["running"] = std::min(static_cast<double>(load.num_running) / max_running, 1.0);
  auto& named = *report.mutable_named_metrics();
  named["kv_cache_usage_ratio"] = kv_cache;
  named["requests_running"] = load.num_running;
  named["requests_waiting"] = load.num_waiting;
  named["requests_waiting_tokens"] = static_cast<double>(load.num_waiting_tokens);
  return report;
}

std::string LoadReportTrailer(xds::data::orca::v3::OrcaLoadReport report, const CallRecord& record) {
  if (record.finish.has_value()) {
    const engine::Usage& usage = record.finish->usage;
    auto& cost = *report.mutable_request_cost();
    cost["prompt_tokens"] = usage.prompt_tokens;
    cost["cached_prompt_tokens"] = usage.cached_prompt_tokens;
    cost["completion_tokens"] = usage.completion_tokens;
  }
  return report.SerializeAsString();
}

}  // namespace spotlight::server
