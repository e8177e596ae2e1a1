// What the server does with connections whatever is called on them: their age, and gRPC's own services.
#include "grpcpp/generic/generic_stub.h"
#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

std::chrono::system_clock::time_point InSeconds(int seconds) {
  return std::chrono::system_clock::now() + std::chrono::seconds(seconds);
}

ServerOptions Aging(absl::Duration grace) {
  ServerOptions options;
  options.max_connection_age = absl::Milliseconds(300);
  options.connection_grace = grace;
  return options;
}

class ConnectionAgeTest : public RunningServer {
 protected:
  explicit ConnectionAgeTest(absl::Duration grace = absl::ZeroDuration()) : RunningServer(Aging(grace)) { Serve(); }

  // Returns once the server has asked the connection to go.
  void WaitForGoAway() {
    ASSERT_EQ(channel_->GetState(false), GRPC_CHANNEL_READY);
    ASSERT_TRUE(channel_->WaitForStateChange(GRPC_CHANNEL_READY, InSeconds(20)));
  }
};

TEST_F(ConnectionAgeTest, AnOldConnectionGoesAndItsStreamEndsInItsOwnTime) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  WaitForGoAway();
  engine_.Send("a", Delta("late", {1}));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.text(), "late");
  engine_.Finish("a", engine_.Stopped(5, 1));
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  grpc::ClientContext next;
  v1::GetLoadsResponse loads;
  EXPECT_TRUE(stub_->GetLoads(&next, {}, &loads).ok()) << "on a connection of its own";
}

class ConnectionGraceTest : public ConnectionAgeTest {
 protected:
  ConnectionGraceTest() : ConnectionAgeTest(absl::Milliseconds(100)) {}
};

TEST_F(ConnectionGraceTest, AStreamThatOutlastsTheGraceIsCancelled) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  EXPECT_EQ(engine_.TakeCancel().reason, engine::CancelReason::kClientGone);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

grpc::StatusCode AskChannelz(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(InSeconds(10));
  grpc::CompletionQueue queue;
  const grpc::Slice empty("");
  auto call =
      stub.PrepareUnaryCall(&context, "/grpc.channelz.v1.Channelz/GetServers", grpc::ByteBuffer(&empty, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  EXPECT_TRUE(!status.ok() || reply.Length() > 0);
  return status.error_code();
}

class ChannelzTest : public RunningServer {
 protected:
  ChannelzTest() : RunningServer(Options()) {}
  static ServerOptions Options() {
    ServerOptions options;
    options.channelz = true;
    return options;
  }
};

TEST_F(ChannelzTest, AnswersWhereItIsTurnedOnAndNowhereElse) {
  EXPECT_EQ(AskChannelz(channel_), grpc::StatusCode::OK);
  ServerOptions options;
  options.listen.port = options.http.port = 0;
  const auto other = Server::Start(options, nullptr);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(AskChannelz(grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*other)->grpc_port()),
                                            grpc::InsecureChannelCredentials())),
            grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace spotlight::server
