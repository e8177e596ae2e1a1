// What the server does with connections whatever is called on them: their age, and gRPC's own services.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/server/raw_call.h"
#include "tests/server/served_engine.h"
#include "tests/testing/tcp_relay.h"

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

class KeepaliveTest : public ServedEngine {
 protected:
  KeepaliveTest() : ServedEngine(Options()) {}
  static ServerOptions Options() {
    ServerOptions options;
    options.keepalive_time = absl::Milliseconds(400);
    options.keepalive_timeout = absl::Milliseconds(400);
    return options;
  }
};

TEST_F(KeepaliveTest, AHostThatVanishesWithoutAWordGivesItsPlaceBack) {
  Start();
  spotlight::testing::TcpRelay relay(server_->grpc_port());
  const auto relayed = v1::Generation::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", relay.port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext silent, alive;
  v1::GenerateStreamResponse message;
  const auto gone = relayed->GenerateStream(&silent, TokensRequest("gone", 4000));
  ASSERT_TRUE(gone->Read(&message));
  const auto kept = stub_->GenerateStream(&alive, TokensRequest("kept", 4000));
  ASSERT_TRUE(kept->Read(&message));
  runner_->Pause();  // a stream that sends nothing: only pings can tell
  relay.Freeze();
  const auto frozen = std::chrono::steady_clock::now();
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kClientGone);
  EXPECT_LT(std::chrono::steady_clock::now() - frozen, std::chrono::seconds(5)) << "0.8 s and a busy machine";
  runner_->Resume();
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(served_->Load().num_running, 1) << "a client that answers pings stays";
  alive.TryCancel();
  TakeRecord();
  EXPECT_EQ(served_->Load().num_running, 0);
  EXPECT_EQ(served_->Load().num_free_pages, 64);
}

class PingTest : public RunningServer {
 protected:
  PingTest() : connection_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->grpc_port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(connection_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    const timeval timeout = {20, 0};
    setsockopt(connection_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }
  ~PingTest() override { close(connection_); }

  void Send(const std::string& bytes) {
    ASSERT_EQ(send(connection_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // An HTTP/2 frame's head (length, type, flags) and its payload; false at the connection's end.
  bool ReadFrame(uint8_t* type, uint8_t* flags) {
    uint8_t head[9];
    if (recv(connection_, head, sizeof(head), MSG_WAITALL) != sizeof(head)) return false;
    std::string payload((head[0] << 16) + (head[1] << 8) + head[2], '\0');
    if (recv(connection_, payload.data(), payload.size(), MSG_WAITALL) != static_cast<ssize_t>(payload.size())) {
      return false;
    }
    *type = head[3];
    *flags = head[4];
    return true;
  }

 private:
  const int connection_;
};

// gRPC's default answers the third ping of an idle connection with GOAWAY "too_many_pings", which ends long prefills.
TEST_F(PingTest, ManyPingsWithoutDataAreAnswered) {
  constexpr int kNumPings = 50;
  constexpr uint8_t kPing = 6, kGoAway = 7;
  Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9));  // an empty SETTINGS
  int num_answered = 0;
  for (int i = 0; i < kNumPings; ++i) {
    Send(std::string("\0\0\10\6\0\0\0\0\0", 9) + "12345678");
    for (uint8_t type = 0, flags = 0; ReadFrame(&type, &flags);) {
      ASSERT_NE(type, kGoAway) << "after " << i << " pings";
      if (type != kPing || flags != 1) continue;  // 1: the answer to ours
      ++num_answered;
      break;
    }
  }
  EXPECT_EQ(num_answered, kNumPings);
}

grpc::StatusCode AskChannelz(const std::shared_ptr<grpc::Channel>& channel) {
  const grpc::Slice empty("");
  grpc::ByteBuffer reply;
  const grpc::Status status =
      CallRaw(channel, "/grpc.channelz.v1.Channelz/GetServers", grpc::ByteBuffer(&empty, 1), &reply);
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
