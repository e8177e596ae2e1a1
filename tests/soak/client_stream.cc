#include "tests/soak/client_stream.h"

#include <algorithm>
#include <utility>

namespace spotlight::soak {
namespace {

using std::chrono::steady_clock;

// A slow reader takes so many messages slowly, then the rest.
constexpr int kSlowReads = 12;

}  // namespace

const char* NameOf(Behaviour behaviour) {
  constexpr const char* kNames[kNumBehaviours] = {
      "patient", "stops", "cancels", "deadline", "reads slowly", "stops reading", "loses network", "aborts", "invalid"};
  return kNames[static_cast<int>(behaviour)];
}

void ClientStream::Start(StreamPlan plan, v1::Generation::Stub* stub, Timer* timer,
                         std::function<void(StreamEnd)> on_end) {
  std::make_shared<ClientStream>(std::move(plan), stub, timer, std::move(on_end))->Begin();
}

ClientStream::ClientStream(StreamPlan plan, v1::Generation::Stub* stub, Timer* timer,
                           std::function<void(StreamEnd)> on_end)
    : plan_(std::move(plan)), stub_(stub), timer_(timer), on_end_(std::move(on_end)) {
  end_.request_id = plan_.request.request_id();
  end_.behaviour = plan_.behaviour;
  end_.samples.resize(plan_.request.sampling().has_n() ? plan_.request.sampling().n() : 1);
  end_.max_tokens = static_cast<int>(end_.samples.size()) * plan_.request.stopping().max_tokens();
  end_.logprobs = plan_.request.has_logprobs();
  if (plan_.behaviour == Behaviour::kStops) end_.stopping = plan_.request.stopping();
}

void ClientStream::Begin() {
  self_ = shared_from_this();
  const auto self = self_;  // the call may end before this function does
  if (plan_.behaviour == Behaviour::kDeadline) {
    context_.set_deadline(std::chrono::system_clock::now() + plan_.after);
  }
  if (plan_.behaviour == Behaviour::kCancels || plan_.behaviour == Behaviour::kStopsReading) {
    timer_->After(plan_.after, [self] { self->context_.TryCancel(); });
  }
  if (plan_.behaviour == Behaviour::kAborts) {
    timer_->After(plan_.after, [self] { self->Abort(); });
  }
  last_message_ = steady_clock::now();
  stub_->async()->GenerateStream(&context_, &plan_.request, this);
  if (plan_.behaviour == Behaviour::kStopsReading) {
    // The first read is not started until the cancel has come: gRPC keeps what arrives, and the window fills.
    AddHold();
    timer_->After(plan_.after + std::chrono::milliseconds(20), [self] { self->ReadOn(); });
  } else {
    StartRead(&message_);
  }
  StartCall();
}

void ClientStream::Abort() {
  struct Call {
    grpc::ClientContext context;
    v1::AbortRequest request;
    v1::AbortResponse response;
  };
  auto call = std::make_shared<Call>();
  call->request.set_request_id(end_.request_id);
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  // NOT_FOUND where the request has ended.
  stub_->async()->Abort(&call->context, &call->request, &call->response, [call](const grpc::Status&) {});
}

void ClientStream::ReadOn() {
  last_message_ = steady_clock::now();
  StartRead(&message_);
  RemoveHold();
}

void ClientStream::Take(const v1::GenerateStreamResponse& message) {
  const auto now = steady_clock::now();
  const double gap = std::chrono::duration<double>(now - last_message_).count();
  // Until the first token a request may wait for its turn.
  if (end_.tokens > 0 && gap > end_.longest_gap_seconds) {
    end_.longest_gap_seconds = gap;
    end_.gap_end = now;
  }
  last_message_ = now;
  if (end_.finals >= static_cast<int>(end_.samples.size())) ++end_.after_final;
  end_.tokens += message.token_ids_size();
  end_.token_logprobs += message.logprobs_size();
  if (message.index() < 0 || message.index() >= static_cast<int>(end_.samples.size())) {
    ++end_.strays;
    return;
  }
  SampleEnd& sample = end_.samples[message.index()];
  if (end_.behaviour == Behaviour::kStops) {
    sample.token_ids.insert(sample.token_ids.end(), message.token_ids().begin(), message.token_ids().end());
    sample.text += message.text();
    sample.matched_stop += message.matched_stop();
    if (message.has_matched_stop_token_id()) sample.matched_stop_token = message.matched_stop_token_id();
  }
  if (message.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) return;
  ++end_.finals;
  ++sample.finals;
  sample.finish_reason = message.finish_reason();
  end_.usage_tokens = message.usage().completion_tokens();
}

void ClientStream::OnReadDone(bool ok) {
  if (!ok) return;
  const bool first = end_.tokens == 0;
  Take(message_);
  if (plan_.behaviour == Behaviour::kReadsSlowly && !first && end_.finals == 0 && end_.num_slow_reads < kSlowReads) {
    ++end_.num_slow_reads;
    AddHold();
    timer_->After(plan_.after, [self = shared_from_this()] { self->ReadOn(); });
    return;
  }
  StartRead(&message_);
}

void ClientStream::OnDone(const grpc::Status& status) {
  const auto self = std::move(self_);
  ++end_.num_dones;
  end_.status = status;
  on_end_(end_);
}

}  // namespace spotlight::soak
