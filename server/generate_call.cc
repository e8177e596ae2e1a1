#include "server/generate_call.h"

#include <algorithm>
#include <utility>

#include "server/tracing/trace_parent.h"

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

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string CallerOf(const std::string& name, const grpc::CallbackServerContext& context) {
  return name.empty() ? HostOfPeer(context.peer()) : name;
}

GenerateCall::GenerateCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment)
    : environment_(environment),
      context_(context),
      start_(std::chrono::steady_clock::now()),
      arrival_(std::chrono::system_clock::now()),
      deadline_(context->deadline()),
      unread_(environment->unread_watch, context) {
  record_.method = method;
  if (environment_->traced) record_.trace_parent = TraceParentOf(*context_);
  environment_->open_calls->Begin();
}

absl::Status GenerateCall::Submit(AcceptedRequest accepted, std::shared_ptr<engine::ResponseSink> sink) {
  record_.request_id = accepted.request.request_id;
  record_.caller = accepted.authorization.caller.name;
  place_ = std::move(accepted.authorization.place);
  // Set before the engine can finish: gRPC may report a cancel as soon as the handler has returned.
  engine_ = accepted.engine;
  accepted.request.caller = CallerOf(record_.caller, *context_);
  if (deadline_ != std::chrono::system_clock::time_point::max()) {
    accepted.request.timeout = absl::FromChrono(deadline_ - std::chrono::system_clock::now());
  }
  submission_ = sink.get();
  record_.accepted_seconds = SecondsSince(start_);
  absl::Status status = engine_->Submit(std::move(accepted.request), std::move(sink));
  if (!status.ok()) engine_ = nullptr;
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
  cancelled_.store(true, std::memory_order_release);
  // NOT_FOUND: the request ended in the same moment, and its OnFinish has come or is coming.
  if (engine_ == nullptr || finished_.load(std::memory_order_acquire)) return;
  engine_->Cancel(record_.request_id, ReasonOfCancel(), {submission_}).IgnoreError();
}

void GenerateCall::Finished(engine::Finish finish) {
  record_.status = finish.status;
  record_.finish = std::move(finish);
  finished_.store(true, std::memory_order_release);
}

void GenerateCall::Closing() {
  place_ = nullptr;
  // Not for strangers.
  const bool known = !absl::IsUnauthenticated(record_.status) && !absl::IsPermissionDenied(record_.status);
  if (environment_->load_report && known) {
    context_->AddTrailingMetadata("endpoint-load-metrics-bin", environment_->load_report(record_));
  }
}

void GenerateCall::Ended() {
  // What was to be said never reached a client that does not read.
  if (const absl::Status given_up = unread_.End(); !given_up.ok()) record_.status = given_up;
  record_.seconds = SecondsSince(start_);
  environment_->on_end(record_);
  environment_->open_calls->End();
}

}  // namespace spotlight::server
