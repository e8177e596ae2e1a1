#include "server/served_call.h"

#include <utility>

#include "server/tracing/trace_parent.h"

namespace spotlight::server {

ServedCall::ServedCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment)
    : environment_(environment),
      context_(context),
      start_(std::chrono::steady_clock::now()),
      unread_(environment->unread_watch, context) {
  record_.method = method;
  if (environment_->traced) record_.trace_parent = TraceParentOf(*context_);
}

void ServedCall::Enter(Authorization authorization) {
  authorization_ = std::move(authorization);
  record_.caller = authorization_.caller.name;
}

void ServedCall::Closing(size_t num_bytes) {
  if (authorization_.place == nullptr) return;
  untaken_bytes_ = environment_->untaken_answers->Add(record_.caller, num_bytes);
  if (untaken_bytes_ > 0) GivePlaceBack();
}

void ServedCall::Ended() {
  environment_->untaken_answers->Remove(record_.caller, untaken_bytes_);
  GivePlaceBack();
  if (record_.status.ok() && cancelled()) record_.status = absl::CancelledError("the client left its answer");
  // What was to be said never reached a client that does not read.
  if (absl::Status given_up = unread_.End(); !given_up.ok()) record_.status = std::move(given_up);
  record_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  environment_->on_end(record_);
}

}  // namespace spotlight::server
