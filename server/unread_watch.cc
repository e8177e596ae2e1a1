#include "server/unread_watch.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpc/grpc.h"

namespace spotlight::server {

UnreadWatch::UnreadWatch(absl::Duration patience) : patience_(patience) {
  if (patience_ > absl::ZeroDuration()) thread_ = std::thread([this] { Watch(); });
}

UnreadWatch::~UnreadWatch() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stops_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

int64_t UnreadWatch::NowNs() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::Status UnreadWatch::GivenUp() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("unread_bytes: the client has taken nothing for ", absl::FormatDuration(patience_)));
}

void UnreadWatch::Watch() {
  // A call ends at most a quarter late.
  const auto interval = absl::ToChronoNanoseconds(std::min(patience_ / 4, absl::Seconds(5)));
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (!stopping_) stops_.WaitFor(&mutex_, interval);
      if (stopping_) return;
    }
    EndStuckCalls();
  }
}

void UnreadWatch::EndStuckCalls() {
  const int64_t latest = NowNs() - absl::ToInt64Nanoseconds(patience_);
  std::vector<grpc_call*> stuck;
  {
    MutexLock lock(&mutex_);
    for (Call* const call : calls_) {
      const int64_t begin = call->write_begin_ns_.load(std::memory_order_relaxed);
      if (call->given_up_ || begin == Call::kNone || begin > latest) continue;
      call->given_up_ = true;
      stuck.push_back(call->context_->c_call());
      grpc_call_ref(stuck.back());  // it may end as soon as the lock is free
    }
  }
  // A cancel with a status of its own: the reset that ends a call else says nothing but CANCELLED. The status passes
  // the messages that wait, as it has no window to wait for.
  const std::string message(GivenUp().message());
  for (grpc_call* const call : stuck) {
    grpc_call_cancel_with_status(call, GRPC_STATUS_RESOURCE_EXHAUSTED, message.c_str(), nullptr);
    grpc_call_unref(call);
  }
}

UnreadWatch::Call::Call(UnreadWatch* watch, grpc::CallbackServerContext* context)
    : watch_(watch == nullptr || !watch->thread_.joinable() ? nullptr : watch), context_(context) {
  if (watch_ == nullptr) return;
  MutexLock lock(&watch_->mutex_);
  watch_->calls_.insert(this);
}

absl::Status UnreadWatch::Call::End() {
  if (watch_ == nullptr) return absl::OkStatus();
  UnreadWatch* const watch = watch_;
  watch_ = nullptr;
  MutexLock lock(&watch->mutex_);
  watch->calls_.erase(this);
  return given_up_ ? watch->GivenUp() : absl::OkStatus();
}

}  // namespace spotlight::server
