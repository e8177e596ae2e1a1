// A server on free ports of the loopback, over a fake engine, with clients to talk to it.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"
#include "server/server.h"
#include "tests/testing/fake_engine.h"

namespace spotlight::server {

class RunningServer : public ::testing::Test {
 protected:
  explicit RunningServer(ServerOptions options = {}, const std::shared_ptr<grpc::ChannelCredentials>& credentials =
                                                         grpc::InsecureChannelCredentials()) {
    options.listen.port = 0;
    options.http.port = 0;
    options.model_name = "fake";
    auto server = Server::Start(options, [this](const CallRecord& record) {
      MutexLock lock(&mutex_);
      records_.push_back(record);
      changed_.NotifyAll();
    });
    if (!server.ok()) ADD_FAILURE() << server.status();
    server_ = *std::move(server);
    channel_ = Connect(credentials);
    stub_ = v1::Generation::NewStub(channel_);
    health_ = grpc::health::v1::Health::NewStub(channel_);
  }
  ~RunningServer() override { server_->Shutdown(); }

  // With a connection of its own.
  std::shared_ptr<grpc::Channel> Connect(const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->grpc_port()), credentials, arguments);
  }

  void Serve() { server_->Serve(&engine_, "2.11.0", absl::Seconds(1.5)); }

  // The record of the oldest finished call not yet taken; waits for one. Comes after the client has its status.
  CallRecord TakeRecord() {
    MutexLock lock(&mutex_);
    while (records_.empty()) changed_.Wait(&mutex_);
    CallRecord record = std::move(records_.front());
    records_.pop_front();
    return record;
  }

  static v1::GenerateRequest Request(const std::string& request_id) {
    v1::GenerateRequest request;
    request.set_request_id(request_id);
    request.set_text("hello");
    return request;
  }
  static engine::Delta Delta(const std::string& text, std::vector<int32_t> token_ids = {}) {
    engine::Delta delta;
    delta.text = text;
    delta.token_ids = std::move(token_ids);
    return delta;
  }

  spotlight::testing::FakeEngine engine_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<CallRecord> records_ ABSL_GUARDED_BY(mutex_);
};

// The detail of this type that came over the wire; a failure of the test where there is none.
template <class Detail>
Detail DetailOf(const grpc::Status& status) {
  google::rpc::Status proto;
  EXPECT_TRUE(proto.ParseFromString(status.error_details()));
  EXPECT_EQ(proto.code(), status.error_code());
  EXPECT_EQ(proto.message(), status.error_message());
  Detail detail;
  for (const auto& any : proto.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  ADD_FAILURE() << "no " << detail.GetTypeName() << " in " << proto.ShortDebugString();
  return detail;
}

}  // namespace spotlight::server
