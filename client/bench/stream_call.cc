#include "client/bench/stream_call.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "client/error_details.h"

namespace spotlight::client::bench {

StreamCall::StreamCall(WorkItem item, Clock::time_point run_start, double intended_seconds, Cancellation* cancellation,
                       LiveCounts* counts, std::function<void(StreamCall*)> on_done)
    : run_start_(run_start),
      item_(std::move(item)),
      counts_(counts),
      on_done_(std::move(on_done)),
      scope_(cancellation, &context_) {
  record_.intended = intended_seconds;
  record_.prompt_tokens = item_.input_tokens;
  record_.gaps.reserve(std::clamp(item_.output_tokens - 1, 0, 4096));
}

void StreamCall::Start(v1::Generation::Stub* stub, absl::Duration deadline) {
  if (deadline != absl::InfiniteDuration()) {
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(deadline));
  }
  record_.sent = SecondsBetween(run_start_, Clock::now());
  stub->async()->GenerateStream(&context_, &item_.request, this);
  StartRead(&message_);
  StartCall();  // sends; from here on the callbacks may come
}

void StreamCall::OnTokens(int32_t num_tokens, double now) {
  if (record_.output_tokens == 0) {
    record_.first_token = now;
  } else {
    record_.gaps.push_back(static_cast<float>(now - record_.last_token));
  }
  record_.last_token = now;
  record_.output_tokens += num_tokens;
  counts_->tokens.fetch_add(num_tokens, std::memory_order_relaxed);
  if (item_.cancel_after_tokens > 0 && record_.output_tokens >= item_.cancel_after_tokens && !record_.cancelled) {
    record_.cancelled = true;
    cancelled_at_ = now;
    context_.TryCancel();
  }
}

void StreamCall::OnReadDone(bool ok) {
  if (!ok) return;  // OnDone follows
  const double now = SecondsBetween(run_start_, Clock::now());
  // Some of the text may be ahead of its tokens' characters, but a message with neither holds no token.
  const int32_t num_tokens = std::max(message_.token_ids_size(), message_.text().empty() ? 0 : 1);
  if (num_tokens > 0) OnTokens(num_tokens, now);
  if (message_.has_prompt_info()) record_.prompt_tokens = message_.prompt_info().prompt_tokens();
  if (message_.has_usage()) {
    record_.prompt_tokens = message_.usage().prompt_tokens();
    record_.output_tokens = message_.usage().completion_tokens();
  }
  StartRead(&message_);
}

void StreamCall::OnDone(const grpc::Status& status) {
  record_.end = SecondsBetween(run_start_, Clock::now());
  record_.code = status.error_code();
  if (record_.cancelled) {
    // The last token and the cancel may cross.
    record_.cancelled = !status.ok();
    record_.cancel_seconds = record_.end - cancelled_at_;
  }
  if (record_.failed()) record_.message = ErrorLine(FromGrpcStatus(status));
  on_done_(this);
}

}  // namespace spotlight::client::bench
