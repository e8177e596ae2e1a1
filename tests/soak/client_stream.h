// One stream of the soak: a client that behaves well, or in one of the ways that clients misbehave.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"
#include "tests/soak/timer.h"

namespace spotlight::soak {

enum class Behaviour {
  kPatient,       // reads all
  kStops,         // reads all, and may end at a stop string, a stop token or an end of sequence
  kCancels,       // cancels after a while
  kDeadline,      // has a deadline that may pass
  kReadsSlowly,   // pauses between reads
  kStopsReading,  // reads nothing for a long while, then cancels
  kLosesNetwork,  // over connections that are cut
  kAborts,        // ends its request by Abort
  kInvalid,       // asks for what must be refused
};
constexpr int kNumBehaviours = 9;
const char* NameOf(Behaviour behaviour);

struct StreamPlan {
  Behaviour behaviour = Behaviour::kPatient;
  v1::GenerateRequest request;
  std::chrono::milliseconds after{0};  // when the misbehaviour comes, or the deadline, or the pause between reads
};

// What its client saw of one sample.
struct SampleEnd {
  int finals = 0;  // messages with a finish_reason
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  // Of kStops alone.
  std::vector<int32_t> token_ids;
  std::string text, matched_stop;
  absl::optional<int32_t> matched_stop_token;
};

// And of the whole stream.
struct StreamEnd {
  std::string request_id;
  Behaviour behaviour;
  int num_dones = 0;  // calls of gRPC's OnDone
  grpc::Status status;
  std::vector<SampleEnd> samples;
  int max_tokens = 0;      // of all samples
  bool logprobs = false;   // asked for
  v1::Stopping stopping;   // of kStops alone: what it asked for
  int tokens = 0;          // received
  int token_logprobs = 0;  // likewise
  int usage_tokens = 0;    // as the last message says
  int finals = 0;          // messages with a finish_reason, one for each sample
  int after_final = 0;     // and what came after the last of them
  int strays = 0;          // messages of no sample that was asked for
  int num_slow_reads = 0;
  double longest_gap_seconds = 0;  // between messages, none of them this client's fault
  std::chrono::steady_clock::time_point gap_end;
};

// Deletes itself after on_end.
class ClientStream final : public grpc::ClientReadReactor<v1::GenerateStreamResponse>,
                           public std::enable_shared_from_this<ClientStream> {
 public:
  static void Start(StreamPlan plan, v1::Generation::Stub* stub, Timer* timer, std::function<void(StreamEnd)> on_end);

  ClientStream(StreamPlan plan, v1::Generation::Stub* stub, Timer* timer, std::function<void(StreamEnd)> on_end);
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void Begin();
  void Abort();
  void Take(const v1::GenerateStreamResponse& message);
  void ReadOn();  // after AddHold

  const StreamPlan plan_;
  v1::Generation::Stub* const stub_;
  Timer* const timer_;
  const std::function<void(StreamEnd)> on_end_;
  std::shared_ptr<ClientStream> self_;  // gRPC's
  grpc::ClientContext context_;
  v1::GenerateStreamResponse message_;
  StreamEnd end_;
  std::chrono::steady_clock::time_point last_message_;
};

}  // namespace spotlight::soak
