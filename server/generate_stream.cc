#include "server/generate_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/delta_bytes.h"
#include "server/grpc_status.h"
#include "server/proto_conversion.h"
#include "server/wire_message.h"

namespace spotlight::server {
namespace {

// Merging stops here: well below the 4 MB that gRPC clients accept by default.
constexpr size_t kMaxMergedBytes = 256 << 10;
// What may wait for a reader that does not read, in memory: 4,800 tokens with 20 log-probabilities each.
constexpr size_t kMaxPendingBytes = 4 << 20;
// Of the prompt's log-probabilities as much may wait as well: they come as fast as the prompt is computed, which no
// reader can slow down.
constexpr size_t kMaxPromptLogprobBytes = 16 << 20;

}  // namespace

GenerateStream* GenerateStream::Start(grpc::CallbackServerContext* context, const GenerateEnvironment* environment,
                                      Authorization authorization, const absl::Status& refused) {
  auto stream = std::make_shared<GenerateStream>(context, environment);
  stream->self_ = stream;
  stream->call_.Enter(std::move(authorization));
  if (refused.ok()) {
    stream->ReadRequest(environment->request_reads, RequestReads::Room::kCallers, stream->call_.record().caller,
                        context);
  } else {
    stream->OnNoRequest(refused);
  }
  return stream.get();  // kept by self_ until OnDone, which cannot come before the caller hands it to gRPC
}

void GenerateStream::OnRequest(grpc::ByteBuffer* bytes) {
  auto accepted = environment_->accept(call_.authorization(), bytes);
  if (!accepted.ok()) return OnNoRequest(accepted.status());
  wanted_ = accepted->wanted;
  // From here on the engine may call.
  const absl::Status status = call_.Submit(*std::move(accepted), shared_from_this());
  if (!status.ok()) OnNoRequest(status);
}

void GenerateStream::OnNoRequest(const absl::Status& status) {
  call_.GivePlaceBack();
  call_.SetStatus(status);
  {
    MutexLock lock(&mutex_);
    call_finished_ = true;
  }
  call_.Closing(0);
  Finish(ToGrpcStatus(status));
}

v1::GenerateStreamResponse* GenerateStream::Reserve(int32_t index, size_t num_bytes, bool last) {
  const auto is_its = [index](const Pending& pending) { return pending.message.index() == index; };
  const auto latest = std::find_if(pending_.rbegin(), pending_.rend(), is_its);
  const bool fits = latest != pending_.rend() && (!last || latest == pending_.rbegin()) &&
                    latest->num_bytes + num_bytes <= kMaxMergedBytes &&
                    latest->message.finish_reason() == v1::FINISH_REASON_UNSPECIFIED;
  Pending* const pending = fits ? &*latest : &pending_.emplace_back();
  if (!fits) num_bytes += sizeof(Pending);
  pending->num_bytes += num_bytes;
  pending_bytes_ += num_bytes;
  v1::GenerateStreamResponse* const message = &pending->message;
  if (!std::exchange(has_message_, true)) {
    message->set_request_id(call_.record().request_id);
    if (prompt_tokens_ > 0) message->mutable_prompt_info()->set_prompt_tokens(prompt_tokens_);
  }
  return message;
}

void GenerateStream::OnPrompt(int32_t prompt_tokens) {
  // Not sent by itself: once a message has come no client library sends the call to another server, and a request that
  // only waits would be lost with this one.
  MutexLock lock(&mutex_);
  prompt_tokens_ = prompt_tokens;
}

void GenerateStream::OnDelta(engine::Delta delta) {
  const bool has_ids = wanted_.token_ids && !delta.token_ids.empty();
  const bool has_output = !delta.text.empty() || !delta.logprobs.empty() || has_ids;
  if (!has_output && !delta.has_prompt()) return;
  // An echo comes while the request may still wait, and goes with the first output, as OnPrompt's figure does.
  const bool is_echo = !has_output && delta.prompt_logprobs.empty();
  {
    MutexLock lock(&mutex_);
    if (reader_gone_) return;
    has_output_ |= !is_echo;
    const size_t echo_bytes = EchoBytes(delta);
    const size_t prompt_logprob_bytes = LogprobBytes(delta.prompt_logprobs);
    // The echo comes all at once, however fast the reader is, and is no more than it sent.
    echo_bytes_ += echo_bytes;
    prompt_logprob_bytes_ += prompt_logprob_bytes;
    const size_t bound = kMaxPendingBytes + echo_bytes_ + std::min(prompt_logprob_bytes_, kMaxPromptLogprobBytes);
    if (overflowed_ || pending_bytes_ + DeltaBytes(delta) > bound) return Overflow();
    if (prompt_logprob_bytes > kMaxMergedBytes) {
      // A step of thousands of prompt tokens.
      for (const engine::Delta& part : TakePromptLogprobs(&delta, kMaxMergedBytes)) Append(part);
    }
    if (has_output || delta.has_prompt()) Append(delta);
  }
  if (!is_echo) PostAdvance();
}

void GenerateStream::Append(const engine::Delta& delta) {
  v1::GenerateStreamResponse* const message = Reserve(delta.index, DeltaBytes(delta));
  AppendDelta(delta, wanted_, message);
  if (delta.has_prompt()) message->mutable_prompt_info()->set_prompt_tokens(prompt_tokens_);
}

void GenerateStream::Overflow() {
  overflowed_ = true;
  ClearPending();
  if (cancel_posted_) return;
  // Not from here: a sink must not call the engine. A full pool is asked again with the next delta.
  cancel_posted_ = call_.environment().writers->Post([self = shared_from_this()] { self->call_.Cancel(); });
}

void GenerateStream::ClearPending() {
  // Not here where it takes long: this may be the engine's thread, or the one that serves all streams.
  if (pending_bytes_ > kLargeAnswerBytes) DestroyOn(call_.environment().large_answers, std::exchange(pending_, {}));
  pending_.clear();
  pending_bytes_ = 0;
}

void GenerateStream::OnSampleFinish(engine::Finish finish) {
  if (finish.reason == engine::FinishReason::kError || finish.reason == engine::FinishReason::kNone) return;
  {
    MutexLock lock(&mutex_);
    if (reader_gone_ || overflowed_ || IsForAnotherServer(finish)) return;
    has_output_ = true;
    SetSampleFinish(finish, wanted_, Reserve(finish.index, 0));
  }
  PostAdvance();
}

void GenerateStream::OnFinish(engine::Finish finish) {
  {
    MutexLock lock(&mutex_);
    if (overflowed_) {
      finish.reason = engine::FinishReason::kCancelled;
      finish.status = absl::ResourceExhaustedError(
          absl::StrCat("unread_bytes: the client does not read, and more than ", kMaxPendingBytes, " bytes wait"));
    }
    // A request that never ran has no figures to report, only its status.
    if (IsForAnotherServer(finish)) {
      ClearPending();
    } else if (finish.reason != engine::FinishReason::kError && finish.reason != engine::FinishReason::kNone) {
      SetFinish(finish, wanted_, Reserve(finish.index, 0, /*last=*/true));
    }
    call_.Finished(std::move(finish));
    engine_finished_ = true;
  }
  PostAdvance();
}

void GenerateStream::PostAdvance() {
  {
    MutexLock lock(&mutex_);
    if (advance_posted_ || write_in_flight_) return;  // Advance or OnWriteDone will see what was added
    advance_posted_ = true;
  }
  auto advance = [self = shared_from_this()] {
    {
      MutexLock lock(&self->mutex_);
      self->advance_posted_ = false;
    }
    self->Advance();
  };
  // One task a call at most, so the queue is full only with more calls than it holds: then pay here.
  if (!call_.environment().writers->Post(advance)) advance();
}

void GenerateStream::Advance() {
  v1::GenerateStreamResponse message;
  bool has_message = false;
  bool is_last = false;
  {
    MutexLock lock(&mutex_);
    if (write_in_flight_ || call_finished_) return;
    if (reader_gone_) ClearPending();
    if (!pending_.empty()) {
      pending_bytes_ -= pending_.front().num_bytes;
      message = std::move(pending_.front().message);
      pending_.pop_front();
      has_message = true;
    }
    is_last = engine_finished_ && pending_.empty();
    if (!has_message && !is_last) return;
    write_in_flight_ = !is_last;
    call_finished_ = is_last;
  }
  // Only one thread gets here at a time: the flags above keep the others out until OnWriteDone.
  if (has_message) in_flight_ = SerializeMessage(message);
  if (is_last) call_.Closing(has_message ? in_flight_.Length() : 0);
  if (!has_message) {
    Finish(ToGrpcStatus(call_.record().status));
    return;
  }
  call_.WriteBegins();
  if (is_last) {
    StartWriteAndFinish(&in_flight_, grpc::WriteOptions(), ToGrpcStatus(call_.record().status));
  } else {
    StartWrite(&in_flight_);
  }
}

void GenerateStream::OnWriteDone(bool ok) {
  call_.WriteEnds();
  {
    MutexLock lock(&mutex_);
    write_in_flight_ = false;
    if (!ok) reader_gone_ = true;
  }
  Advance();
}

void GenerateStream::OnCancel() {
  {
    MutexLock lock(&mutex_);
    reader_gone_ = true;
  }
  call_.Cancel();
  CancelRead();
}

void GenerateStream::OnDone() {
  const std::shared_ptr<GenerateStream> last = std::move(self_);
  call_.Ended();
}

}  // namespace spotlight::server
