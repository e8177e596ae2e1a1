#include "server/generate_unary.h"

#include <utility>

#include "server/grpc_status.h"
#include "server/proto_conversion.h"
#include "server/wire_message.h"

namespace spotlight::server {

GenerateUnary* GenerateUnary::Start(grpc::CallbackServerContext* context, const CallEnvironment* environment,
                                    AcceptedRequest accepted, grpc::ByteBuffer* reply) {
  auto unary = std::make_shared<GenerateUnary>(context, environment, reply);
  unary->self_ = unary;
  unary->wanted_ = accepted.wanted;
  unary->response_.set_request_id(accepted.request.request_id);
  const absl::Status status = unary->call_.Submit(std::move(accepted), unary);
  if (!status.ok()) unary->RefuseWith(status);
  return unary.get();  // kept by self_ until OnDone, which cannot come before the caller hands it to gRPC
}

GenerateUnary* GenerateUnary::Refuse(grpc::CallbackServerContext* context, const CallEnvironment* environment,
                                     const std::string& caller, const absl::Status& status) {
  auto unary = std::make_shared<GenerateUnary>(context, environment, nullptr);
  unary->self_ = unary;
  unary->call_.set_caller(caller);
  unary->RefuseWith(status);
  return unary.get();
}

void GenerateUnary::RefuseWith(const absl::Status& status) {
  call_.Refused(status);
  call_.Closing();
  Finish(ToGrpcStatus(status));
}

void GenerateUnary::OnPrompt(int32_t prompt_tokens) {
  response_.mutable_prompt_info()->set_prompt_tokens(prompt_tokens);
}

void GenerateUnary::OnDelta(engine::Delta delta) {
  if (!call_.cancelled()) AppendDelta(delta, wanted_, &response_);
}

void GenerateUnary::OnSampleFinish(engine::Finish finish) {
  SetSampleFinish(finish, wanted_, &response_);
}

void GenerateUnary::OnFinish(engine::Finish finish) {
  SetFinish(finish, wanted_, &response_);
  call_.Finished(std::move(finish));
  auto reply = [self = shared_from_this()] { self->Reply(); };
  if (!call_.environment().writers->Post(reply)) reply();
}

void GenerateUnary::Reply() {
  const absl::Status& status = call_.record().status;
  if (status.ok()) *reply_ = SerializeMessage(response_);
  call_.Closing();
  call_.WriteBegins();
  Finish(ToGrpcStatus(status));
}

void GenerateUnary::OnDone() {
  const std::shared_ptr<GenerateUnary> last = std::move(self_);
  call_.Ended();
}

}  // namespace spotlight::server
