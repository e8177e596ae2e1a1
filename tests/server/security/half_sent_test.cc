// Messages that are announced and never whole: whoever sends them, others go on and memory stays bounded.
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "server/received_bytes.h"
#include "server/request_reads.h"
#include "tests/server/half_sent_client.h"
#include "tests/server/security/secured_server.h"

namespace spotlight::server {
namespace {

constexpr char kGreedy[] = "greedy-token-0123456789";
constexpr char kOther[] = "other-token-0123456789";
constexpr char kGenerate[] = "/spotlight.v1.Generation/Generate";
// As far as gRPC may go before it cuts streams: eight messages in half of it.
constexpr int64_t kMemoryBytes = 256 << 20;
constexpr uint32_t kAnnounced = 16 << 20;
constexpr int64_t kSent = 12 << 20;

int64_t ResidentMegabytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE) >> 20;
}

SecurityOptions Tokens(const CredentialFiles& files) {
  SecurityOptions security;
  security.token_file =
      files.folder.Write("tokens.json", TokensJson(absl::StrCat(TokenEntryJson("greedy", kGreedy, "\"generate\""), ",",
                                                                TokenEntryJson("other", kOther, "\"generate\""))));
  return security;
}

class HalfSentTest : public SecuredServer {
 protected:
  explicit HalfSentTest(absl::Duration patience = absl::ZeroDuration(), const MakeOptions& security = Tokens)
      : SecuredServer(security, Small(patience)) {
    Serve();
    running_context_.AddMetadata("authorization", absl::StrCat("Bearer ", kOther));
    running_ = stub_->GenerateStream(&running_context_, Request("running"));
    engine_.TakeRequest();
    Step("first");
  }
  static ServerOptions Small(absl::Duration patience) {
    ServerOptions options;
    options.grpc_memory_bytes = kMemoryBytes;
    options.request_patience = patience;
    return options;
  }

  // The other caller's stream brings another token.
  void Step(const std::string& text) {
    engine_.Send("running", Delta(text, {1}));
    v1::GenerateStreamResponse message;
    ASSERT_TRUE(running_->Read(&message));
    EXPECT_EQ(message.text(), text);
  }
  void FinishRunning() {
    engine_.Finish("running", engine_.Stopped(5, 1));
    v1::GenerateStreamResponse message;
    while (running_->Read(&message)) {
    }
    const grpc::Status status = running_->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // `num_connections` times 30 calls.
  void SendHalf(int num_connections, const std::string& path, const std::string& token, uint32_t announced = kAnnounced,
                int64_t sent = kSent) {
    for (int i = 0; i < num_connections; ++i) {
      clients_.push_back(std::make_unique<HalfSentClient>(server_->grpc_port()));
      for (int j = 0; j < 30; ++j) clients_.back()->Call(path, token, announced, sent);
    }
    for (const auto& client : clients_) client->Run();
  }
  template <class Figure>
  int64_t Sum(Figure figure) const {
    int64_t sum = 0;
    for (const auto& client : clients_) sum += (client.get()->*figure)();
    return sum;
  }

  // A request of megabytes, of the other caller, is read.
  grpc::Status DetokenizeLarge() {
    grpc::ClientContext context;
    context.AddMetadata("authorization", absl::StrCat("Bearer ", kOther));
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::DetokenizeRequest request;
    for (int i = 0; i < 1 << 20; ++i) request.add_token_ids(500);
    v1::DetokenizeResponse response;
    return stub_->Detokenize(&context, request, &response);
  }

  std::vector<std::unique_ptr<HalfSentClient>> clients_;
  grpc::ClientContext running_context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> running_;
};

TEST_F(HalfSentTest, StrangersAreRefusedBeforeTheirMessagesTakeMemory) {
  const int64_t before = ResidentMegabytes();
  SendHalf(4, kGenerate, "");
  EXPECT_EQ(Sum(&HalfSentClient::num_ended), 120) << "refused by their headers";
  EXPECT_EQ(Sum(&HalfSentClient::num_read), 0);
  EXPECT_LT(ResidentMegabytes() - before, 32);
  Step("next");
  EXPECT_EQ(DetokenizeLarge().error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "read, and too many ids";
  FinishRunning();
}

TEST_F(HalfSentTest, WhatAnyoneMayAskIsReadAFewAtATime) {
  const int64_t before = ResidentMegabytes();
  SendHalf(4, "/grpc.health.v1.Health/Check", "");
  EXPECT_LT(ResidentMegabytes() - before, 96);
  Step("next");
  EXPECT_EQ(DetokenizeLarge().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FinishRunning();
}

TEST_F(HalfSentTest, ACallerWithATokenFillsHalfOfThePlacesToReadIn) {
  const int64_t before = ResidentMegabytes();
  SendHalf(5, kGenerate, kGreedy);
  EXPECT_EQ(Sum(&HalfSentClient::num_read), 4) << "of eight";
  EXPECT_EQ(Sum(&HalfSentClient::num_ended), 150 - 4 - 64) << "of the others as many wait as leave half of that free";
  EXPECT_LT(ResidentMegabytes() - before, 112);
  Step("next");
  EXPECT_EQ(DetokenizeLarge().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FinishRunning();
}

TEST_F(HalfSentTest, ADrainDoesNotWaitForThem) {
  SendHalf(1, kGenerate, kGreedy);
  std::thread drain([this] { server_->Drain(absl::Seconds(60)); });
  while (Sum(&HalfSentClient::num_ended) < 30) clients_[0]->Run(std::chrono::milliseconds(10));
  int num_unavailable = 0;
  while (num_unavailable < 30) {
    const CallRecord record = TakeRecord();
    if (record.caller == "greedy") num_unavailable += absl::IsUnavailable(record.status);
  }
  v1::GenerateStreamResponse message;  // what runs is ended by the engine
  while (running_->Read(&message)) {
  }
  running_->Finish();
  drain.join();
}

class ImpatientTest : public HalfSentTest {
 protected:
  ImpatientTest() : HalfSentTest(absl::Milliseconds(500)) {}
};

TEST_F(ImpatientTest, AMessageThatDoesNotComeEndsItsCall) {
  SendHalf(1, kGenerate, kGreedy);
  while (Sum(&HalfSentClient::num_ended) < 30) clients_[0]->Run(std::chrono::milliseconds(10));
  int num_late = 0;
  for (int i = 0; i < 30; ++i) {
    const CallRecord record = TakeRecord();
    EXPECT_EQ(record.caller, "greedy");
    if (record.status.code() == absl::StatusCode::kDeadlineExceeded) {
      ++num_late;
      EXPECT_EQ(record.status.message(),
                "request_reads: the request was not whole 500ms after its call had begun (--request-read-seconds)");
    } else {
      EXPECT_EQ(record.status.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_TRUE(absl::StartsWith(record.status.message(), "request_reads: the request waited 500ms to be read"));
    }
  }
  EXPECT_GE(num_late, 4);
  Step("next");
  EXPECT_EQ(DetokenizeLarge().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FinishRunning();
}

// gRPC compares a size when the message is whole.
TEST_F(HalfSentTest, AMessageThatAnnouncesAGigabyteEndsEarly) {
  const int64_t before = ResidentMegabytes();
  int64_t peak = 0;
  for (const char* path : {kGenerate, "/grpc.health.v1.Health/Check"}) {
    HalfSentClient client(server_->grpc_port());
    client.Call(path, kGreedy, 1 << 30, 1 << 30);
    while (client.num_ended() == 0 && !client.ended()) {
      client.Run(std::chrono::milliseconds(1));
      peak = std::max(peak, ResidentMegabytes() - before);
    }
    EXPECT_EQ(client.num_ended(), 1);
  }
  EXPECT_LT(peak, 192);
  EXPECT_EQ(TakeRecord().status.message(),
            "request_bytes: the connection has brought more than its calls' messages may have");
  Step("next");
  FinishRunning();
}

TEST(ReceivedBytesTest, AConnectionHasItsOwnCountUnderTheNameThatGrpcGivesIt) {
  EXPECT_EQ(ConnectionOf("ipv4:10.0.0.7:52044"), "10.0.0.7 52044");
  EXPECT_EQ(ConnectionOf("ipv6:%5B::1%5D:52044"), "::1 52044");
  EXPECT_EQ(ConnectionOf("ipv6:%5Bfe80::1%25eth0%5D:7"), "fe80::1 7");
}

// A call without a message, or with one of no bytes.
TEST_F(HalfSentTest, WhoSendsNoMessageIsToldThatOneIsNeeded) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.AddMetadata("authorization", absl::StrCat("Bearer ", kOther));
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, kGenerate, &queue);
  void* tag;
  bool ok;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  call->WritesDone(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(status.error_message(), "the method takes one request message, and none came");
  queue.Shutdown();
  FinishRunning();
}

}  // namespace
}  // namespace spotlight::server
