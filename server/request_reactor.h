// gRPC's reactor of a call that takes one request message.
//
// To gRPC every method is a stream in both directions, which on the wire is the same as a unary or a server-streaming
// one: so the handler runs when the headers are there, and lets nobody's message be gathered before its caller is
// known and it has a place to be read in (request_reads.h). A second message is left where it is, as gRPC's own unary
// methods do.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/request_reads.h"

namespace spotlight::server {

class RequestReactor : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                       private RequestReads::Request {
 public:
  // In the method's handler, once: OnRequest or OnNoRequest follows. `reads` and `context` outlive the call.
  void ReadRequest(RequestReads* reads, RequestReads::Room room, const std::string& caller,
                   grpc::CallbackServerContext* context);

 protected:
  // One of these comes once, on any thread, before or after ReadRequest returns. To be answered by Finish, now or
  // later. The bytes are the call's.
  virtual void OnRequest(grpc::ByteBuffer* bytes) = 0;
  // UNIMPLEMENTED: the client has sent none; CANCELLED: it is gone; else as RequestReads says.
  virtual void OnNoRequest(const absl::Status& status) = 0;

  // To be called from OnCancel.
  void CancelRead();

 private:
  void OnReadDone(bool ok) final;
  void StartReading() final { StartRead(&request_); }
  void RefuseReading(const absl::Status& status) final { OnNoRequest(status); }

  RequestReads* reads_ = nullptr;
  grpc::CallbackServerContext* context_ = nullptr;
  grpc::ByteBuffer request_;
};

}  // namespace spotlight::server
