#include "server/generate_unary.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/delta_bytes.h"
#include "server/grpc_status.h"
#include "server/proto_conversion.h"
#include "server/wire_message.h"

namespace spotlight::server {
namespace {

// In memory: 77,000 tokens with 20 log-probabilities each, 18 MB on the wire.
constexpr size_t kMaxAnswerBytes = 64 << 20;

}  // namespace

GenerateUnary* GenerateUnary::Start(grpc::CallbackServerContext* context, const GenerateEnvironment* environment,
                                    Authorization authorization, const absl::Status& refused) {
  auto unary = std::make_shared<GenerateUnary>(context, environment);
  unary->self_ = unary;
  unary->call_.Enter(std::move(authorization));
  if (refused.ok()) {
    unary->ReadRequest(environment->request_reads, RequestReads::Room::kCallers, unary->call_.record().caller, context);
  } else {
    unary->OnNoRequest(refused);
  }
  return unary.get();  // kept by self_ until OnDone, which cannot come before the caller hands it to gRPC
}

void GenerateUnary::OnRequest(grpc::ByteBuffer* bytes) {
  auto accepted = environment_->accept(call_.authorization(), bytes);
  if (!accepted.ok()) return OnNoRequest(accepted.status());
  wanted_ = accepted->wanted;
  response_.set_request_id(accepted->request.request_id);
  const absl::Status status = call_.Submit(*std::move(accepted), shared_from_this());
  if (!status.ok()) OnNoRequest(status);
}

void GenerateUnary::OnNoRequest(const absl::Status& status) {
  call_.GivePlaceBack();
  call_.SetStatus(status);
  call_.Closing(0);
  Finish(ToGrpcStatus(status));
}

void GenerateUnary::OnPrompt(int32_t prompt_tokens) {
  response_.mutable_prompt_info()->set_prompt_tokens(prompt_tokens);
}

void GenerateUnary::OnDelta(engine::Delta delta) {
  if (call_.cancelled()) return;
  num_bytes_ += DeltaBytes(delta);
  if (num_bytes_ > kMaxAnswerBytes) return Overflow();
  AppendDelta(delta, wanted_, &response_);
}

void GenerateUnary::Overflow() {
  const CallEnvironment& environment = call_.environment();
  if (!std::exchange(overflowed_, true)) DestroyOn(environment.large_answers, std::exchange(response_, {}));
  if (cancel_posted_) return;
  // Not from here: a sink must not call the engine. A full pool is asked again with the next delta.
  cancel_posted_ = environment.writers->Post([self = shared_from_this()] { self->call_.Cancel(); });
}

void GenerateUnary::OnSampleFinish(engine::Finish finish) {
  if (!overflowed_) SetSampleFinish(finish, wanted_, &response_);
}

void GenerateUnary::OnFinish(engine::Finish finish) {
  if (overflowed_) {
    finish.reason = engine::FinishReason::kCancelled;
    finish.status = absl::ResourceExhaustedError(absl::StrCat("answer_bytes: the answer takes more than ",
                                                              kMaxAnswerBytes, " bytes; a stream has no such bound"));
  } else {
    SetFinish(finish, wanted_, &response_);
  }
  call_.Finished(std::move(finish));
  const CallEnvironment& environment = call_.environment();
  WorkerPool* const pool = num_bytes_ > kLargeAnswerBytes ? environment.large_answers : environment.writers;
  auto reply = [self = shared_from_this()] { self->Reply(); };
  if (!pool->Post(reply)) reply();
}

void GenerateUnary::Reply() {
  const absl::Status& status = call_.record().status;
  {
    const v1::GenerateResponse response = std::move(response_);  // not kept while its bytes wait for the client
    if (status.ok()) reply_ = SerializeMessage(response);
  }
  call_.Closing(reply_.Length());
  call_.WriteBegins();
  if (status.ok()) {
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    Finish(ToGrpcStatus(status));
  }
}

void GenerateUnary::OnCancel() {
  call_.Cancel();
  CancelRead();
}

void GenerateUnary::OnDone() {
  const std::shared_ptr<GenerateUnary> last = std::move(self_);
  call_.Ended();
}

}  // namespace spotlight::server
