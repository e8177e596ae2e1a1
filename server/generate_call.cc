#include "server/generate_call.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "grpc/support/time.h"
#include "grpcpp/support/time.h"

namespace spotlight::server {
namespace {

// gRPC rounds the timeout that it sends up, by 1% at most; the rest is for what it takes to get here.
constexpr double kRoundedUp = 0.01;
constexpr std::chrono::milliseconds kLatency(20);
constexpr std::chrono::seconds kMaxSlack(10);

// "ipv4:10.0.0.7:52044" without the port: a client's connections are one caller.
std::string HostOfPeer(const std::string& peer) {
  const size_t port = peer.rfind(':');
  return port == std::string::npos || peer.rfind("ip", 0) != 0 ? peer : peer.substr(0, port);
}

// time_point::max(): none. What a client may send goes far beyond the nanoseconds that 64 bits count.
std::chrono::system_clock::time_point DeadlineOf(const grpc::CallbackServerContext& context) {
  constexpr int64_t kTenYearsInHours = 10 * 365 * 24;
  const gpr_timespec deadline = gpr_convert_clock_type(context.raw_deadline(), GPR_CLOCK_REALTIME);
  const gpr_timespec latest =
      gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_hours(kTenYearsInHours, GPR_TIMESPAN));
  if (gpr_time_cmp(deadline, latest) > 0) return std::chrono::system_clock::time_point::max();
  return grpc::Timespec2Timepoint(deadline);
}

}  // namespace

std::string CallerOf(const std::string& name, const grpc::CallbackServerContext& context) {
  return name.empty() ? HostOfPeer(context.peer()) : name;
}

GenerateCall::GenerateCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment)
    : ServedCall(method, context, environment),
      arrival_(std::chrono::system_clock::now()),
      deadline_(DeadlineOf(*context)) {
  environment_->open_calls->Begin();
}

absl::Status GenerateCall::Submit(AcceptedRequest accepted, std::shared_ptr<engine::ResponseSink> sink) {
  record_.request_id = accepted.request.request_id;
  engine_ = accepted.engine;
  accepted.request.caller = CallerOf(record_.caller, *context_);
  if (deadline_ != std::chrono::system_clock::time_point::max()) {
    accepted.request.timeout = absl::FromChrono(deadline_ - std::chrono::system_clock::now());
  }
  submission_ = sink.get();
  record_.accepted_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  absl::Status status = engine_->Submit(std::move(accepted.request), std::move(sink));
  if (!status.ok()) return status;
  submitted_.store(true);
  if (cancelled()) CancelInEngine();  // in the meantime: one of the two sees the other
  return status;
}

engine::CancelReason GenerateCall::ReasonOfCancel() const {
  if (deadline_ == std::chrono::system_clock::time_point::max()) return engine::CancelReason::kClientGone;
  // The client's timer runs out first and resets the stream.
  using Duration = std::chrono::system_clock::duration;
  const auto rounded_up = std::chrono::duration_cast<Duration>((deadline_ - arrival_) * kRoundedUp);
  const Duration slack = std::min<Duration>(rounded_up + kLatency, kMaxSlack);
  return std::chrono::system_clock::now() + slack >= deadline_ ? engine::CancelReason::kDeadline
                                                               : engine::CancelReason::kClientGone;
}

void GenerateCall::Cancel() {
  Cancelled();
  if (submitted_.load()) CancelInEngine();
}

void GenerateCall::CancelInEngine() {
  // NOT_FOUND: the request ended in the same moment, and its OnFinish has come or is coming.
  if (finished_.load(std::memory_order_acquire)) return;
  engine_->Cancel(record_.request_id, ReasonOfCancel(), {submission_}).IgnoreError();
}

void GenerateCall::Finished(engine::Finish finish) {
  record_.status = finish.status;
  record_.finish = std::move(finish);
  finished_.store(true, std::memory_order_release);
}

void GenerateCall::Closing(size_t num_bytes) {
  ServedCall::Closing(num_bytes);
  // Not for strangers.
  const bool known = !absl::IsUnauthenticated(record_.status) && !absl::IsPermissionDenied(record_.status);
  if (environment_->load_report && known) {
    context_->AddTrailingMetadata("endpoint-load-metrics-bin", environment_->load_report(record_));
  }
}

void GenerateCall::Ended() {
  const bool untaken = record_.status.ok() && cancelled();
  if (untaken && ReasonOfCancel() == engine::CancelReason::kDeadline) {
    record_.status = absl::DeadlineExceededError("the deadline passed before the client took its answer");
  }
  ServedCall::Ended();
  environment_->open_calls->End();
}

}  // namespace spotlight::server
