// A unary call whose client sees that the answer begins, and takes no more of it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/message.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"

namespace spotlight::server {

// With a window of 5 bytes, gRPC's least: of an answer comes what precedes its message.
inline std::shared_ptr<grpc::Channel> ConnectWithoutWindow(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 5);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments);
}

class UnreadCall {
 public:
  // `method` as in "Generate"; `token` may be empty.
  UnreadCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
             const google::protobuf::Message& request, const std::string& token = "")
      : stub_(channel) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    const grpc::Slice slice(request.SerializeAsString());
    call_ =
        stub_.PrepareUnaryCall(&context_, "/spotlight.v1.Generation/" + method, grpc::ByteBuffer(&slice, 1), &queue_);
    call_->StartCall();
    call_->ReadInitialMetadata(this);  // only this sends what StartCall has
  }
  ~UnreadCall() {
    context_.TryCancel();
    if (!finished_) Read();
    queue_.Shutdown();
    while (Next()) {
    }
  }

  // Returns when the server has handed its answer to gRPC.
  void WaitForAnswer() {
    if (!std::exchange(has_head_, true)) Next();
  }
  // After all.
  grpc::Status Read() {
    WaitForAnswer();
    finished_ = true;
    grpc::Status status;
    call_->Finish(&answer_, &status, this);
    Next();
    return status;
  }
  void Leave() { context_.TryCancel(); }

 private:
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok);
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> call_;
  grpc::ByteBuffer answer_;
  bool has_head_ = false;
  bool finished_ = false;
};

}  // namespace spotlight::server
