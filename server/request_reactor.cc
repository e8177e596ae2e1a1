#include "server/request_reactor.h"

namespace spotlight::server {

void RequestReactor::ReadRequest(RequestReads* reads, RequestReads::Room room, const std::string& caller,
                                 grpc::CallbackServerContext* context) {
  reads_ = reads;
  context_ = context;
  reads->Begin(this, room, caller, context->c_call());
}

void RequestReactor::CancelRead() {
  if (reads_ != nullptr && reads_->Leave(this)) OnNoRequest(absl::CancelledError("cancelled before it was read"));
}

void RequestReactor::OnReadDone(bool ok) {
  if (ok) {
    SetWhole(static_cast<int64_t>(request_.Length()));
    OnRequest(&request_);
    reads_->End(this).IgnoreError();  // only now: a message that waits for a thread takes memory as well
    return;
  }
  absl::Status status = reads_->End(this);
  if (status.ok()) {
    // gRPC tells a client that is gone from one that is done.
    status = context_->IsCancelled() ? absl::CancelledError("cancelled before its request was whole")
                                     : absl::UnimplementedError("the method takes one request message, and none came");
  }
  OnNoRequest(status);
}

}  // namespace spotlight::server
