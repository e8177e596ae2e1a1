// A service whose methods take and give bytes, and see a call before its request (request_reactor.h).
#pragma once

#include <functional>
#include <utility>

#include "grpcpp/impl/codegen/rpc_service_method.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server_context.h"
#include "server/request_reactor.h"

namespace spotlight::server {

class RawService : public grpc::Service {
 protected:
  // `path` as in "/spotlight.v1.Generation/Generate", a literal: gRPC keeps the pointer. `start` runs when the
  // headers of a call are there, and returns its reactor, which lives until its OnDone.
  void AddRawMethod(const char* path, std::function<RequestReactor*(grpc::CallbackServerContext*)> start) {
    using Bytes = grpc::ByteBuffer;
    AddMethod(new grpc::internal::RpcServiceMethod(path, grpc::internal::RpcMethod::BIDI_STREAMING, nullptr));
    MarkMethodRawCallback(num_methods_++, new grpc::internal::CallbackBidiHandler<Bytes, Bytes>(std::move(start)));
  }

 private:
  int num_methods_ = 0;
};

}  // namespace spotlight::server
