#include "server/answer_call.h"

#include "server/grpc_status.h"
#include "server/wire_message.h"

namespace spotlight::server {

void AnswerCall::Read(grpc::CallbackServerContext* context, std::function<void(grpc::ByteBuffer*)> answer) {
  answer_ = std::move(answer);
  ReadRequest(call_.environment().request_reads, RequestReads::Room::kCallers, caller(), context);
}

void AnswerCall::Answer(const google::protobuf::Message& response) {
  reply_ = SerializeMessage(response);
  End(absl::OkStatus());
}

void AnswerCall::End(const absl::Status& status) {
  call_.SetStatus(status);
  call_.Closing(reply_.Length());
  call_.WriteBegins();
  if (status.ok()) {
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    Finish(ToGrpcStatus(status));
  }
}

void AnswerCall::OnCancel() {
  call_.Cancelled();
  CancelRead();
}

void AnswerCall::OnDone() {
  call_.Ended();
  delete this;
}

}  // namespace spotlight::server
