#include "server/answer_call.h"

#include "server/grpc_status.h"
#include "server/wire_message.h"

namespace spotlight::server {

void AnswerCall::Answer(const google::protobuf::Message& response) {
  *reply_ = SerializeMessage(response);
  End(absl::OkStatus());
}

void AnswerCall::End(const absl::Status& status) {
  call_.SetStatus(status);
  call_.Closing(status.ok() ? reply_->Length() : 0);
  call_.WriteBegins();
  Finish(ToGrpcStatus(status));
}

void AnswerCall::OnDone() {
  call_.Ended();
  delete this;
}

}  // namespace spotlight::server
