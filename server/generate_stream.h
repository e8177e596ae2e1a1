// One streaming generation call: gRPC's reactor and the engine's sink in one object.
//
// Deltas wait here while a write is in flight and merge with each other, so that a slow reader costs memory for its
// text and not for messages. A reader that lets megabytes wait loses them: the request is cancelled, its slot and pages
// are free at once, and the call ends with RESOURCE_EXHAUSTED when the write in flight is through, the client is gone,
// or UnreadWatch has waited long enough for either. The engine's thread only appends and posts; gRPC is called from a
// writer thread or gRPC's own, one write at a time, never with the lock held.
//
// The end: the call finishes only after the engine's OnFinish (or a refused Submit). A cancel asks the engine to end
// the request, whose OnFinish then ends the call. So gRPC's OnDone is always the last event; the object lives until
// both gRPC and the engine have let go of it.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "engine/mutex.h"
#include "engine/response_sink.h"
#include "grpcpp/support/byte_buffer.h"
#include "proto/spotlight/v1/generation.pb.h"
#include "server/generate_call.h"
#include "server/request_reactor.h"

namespace spotlight::server {

// Thread-safe.
class GenerateStream final : public RequestReactor,
                             public engine::ResponseSink,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  // The reactor to hand to gRPC, which keeps it until OnDone. A call that may not generate is `refused`.
  static GenerateStream* Start(grpc::CallbackServerContext* context, const GenerateEnvironment* environment,
                               Authorization authorization, const absl::Status& refused);

  GenerateStream(grpc::CallbackServerContext* context, const GenerateEnvironment* environment)
      : environment_(environment), call_("GenerateStream", context, environment) {}

  // engine::ResponseSink
  void OnPrompt(int32_t prompt_tokens) override;
  void OnDelta(engine::Delta delta) override;
  void OnSampleFinish(engine::Finish finish) override;
  void OnFinish(engine::Finish finish) override;

  // grpc::ServerBidiReactor
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Pending {
    v1::GenerateStreamResponse message;
    size_t num_bytes = 0;  // in memory, but for the few figures at a sample's end
  };

  void OnRequest(grpc::ByteBuffer* bytes) override;
  void OnNoRequest(const absl::Status& status) override;
  // A message to add to: the latest of the same sample that waits, where it has room and, for what must come `last`,
  // nothing waits behind it. Samples come interleaved, so that one may pass another. The first message tells of the
  // prompt.
  v1::GenerateStreamResponse* Reserve(int32_t index, size_t num_bytes, bool last = false)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ended by a server that stops, with nothing to keep: the status goes alone, and the client library may try another.
  bool IsForAnotherServer(const engine::Finish& finish) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return absl::IsUnavailable(finish.status) && !has_output_;
  }
  void Append(const engine::Delta& delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Overflow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearPending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PostAdvance();
  void Advance();

  const GenerateEnvironment* const environment_;
  GenerateCall call_;
  ReturnOptions wanted_;
  std::shared_ptr<GenerateStream> self_;  // gRPC's reference
  grpc::ByteBuffer in_flight_;            // the writer's alone, between StartWrite and OnWriteDone

  Mutex mutex_;
  int32_t prompt_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool has_message_ ABSL_GUARDED_BY(mutex_) = false;  // reserved, perhaps sent
  bool has_output_ ABSL_GUARDED_BY(mutex_) = false;   // more than an echo
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  size_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of the whole call so far.
  size_t echo_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t prompt_logprob_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool overflowed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_posted_ ABSL_GUARDED_BY(mutex_) = false;
  bool advance_posted_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool reader_gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool engine_finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool call_finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace spotlight::server
