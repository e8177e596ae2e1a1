// Unary answers that nobody takes.
#include <memory>
#include <string>
#include <thread>

#include "tests/server/running_server.h"
#include "tests/server/unread_call.h"

namespace spotlight::server {
namespace {

constexpr size_t kMegabyte = 1 << 20;

class UnreadAnswerTest : public RunningServer {
 protected:
  explicit UnreadAnswerTest(absl::Duration patience = absl::Milliseconds(400)) : RunningServer(Patient(patience)) {
    Serve();
    deaf_ = ConnectWithoutWindow(server_->grpc_port());
  }
  static ServerOptions Patient(absl::Duration patience) {
    ServerOptions options;
    options.unread_patience = patience;
    return options;
  }
  // Answered by the engine, and handed to gRPC.
  std::unique_ptr<UnreadCall> Generate(const std::string& id, size_t num_bytes) {
    auto call = std::make_unique<UnreadCall>(deaf_, "Generate", Request(id));
    engine_.TakeRequest();
    engine_.Send(id, Delta(std::string(num_bytes, 'x')));
    engine_.Finish(id, engine_.Stopped(5, 1));
    call->WaitForAnswer();
    return call;
  }

  std::shared_ptr<grpc::Channel> deaf_;
};

TEST_F(UnreadAnswerTest, AGenerationsAnswerThatNobodyTakesEndsAndIsRecordedSo) {
  const auto call = Generate("a", 100);
  const CallRecord record = TakeRecord();
  EXPECT_EQ(record.status.code(), absl::StatusCode::kResourceExhausted) << record.status;
  EXPECT_EQ(record.finish->reason, engine::FinishReason::kStop);
  EXPECT_GE(record.seconds, 0.3);
  const grpc::Status status = call->Read();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "unread_bytes: the client has taken nothing for 400ms");
}

TEST_F(UnreadAnswerTest, AnAnswerOfMegabytesThatNobodyTakesEndsAsWell) {
  const auto call = Generate("a", 3 * kMegabyte);
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(UnreadAnswerTest, ATextOfTokensThatNobodyTakesEndsAndIsRecordedSo) {
  v1::DetokenizeRequest request;
  for (int i = 0; i < 100; ++i) request.add_token_ids('a');
  UnreadCall call(deaf_, "Detokenize", request);
  const CallRecord record = TakeRecord();
  EXPECT_EQ(record.method, std::string("Detokenize"));
  EXPECT_EQ(record.status.code(), absl::StatusCode::kResourceExhausted) << record.status;
  EXPECT_EQ(call.Read().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(UnreadAnswerTest, SoDoesAFigureOfTheServer) {
  UnreadCall call(deaf_, "GetServerInfo", v1::GetServerInfoRequest());
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kResourceExhausted);
}

class PatientServerTest : public UnreadAnswerTest {
 protected:
  PatientServerTest() : UnreadAnswerTest(absl::Minutes(5)) {}
};

TEST_F(PatientServerTest, AnAnswerThatItsClientLeavesIsRecordedAsCancelled) {
  const auto call = Generate("a", 100);
  call->Leave();
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kCancelled);

  v1::DetokenizeRequest request;
  request.add_token_ids('a');
  UnreadCall text(deaf_, "Detokenize", request);
  text.WaitForAnswer();
  text.Leave();
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(PatientServerTest, AnAnswerThatIsTakenLateIsWhole) {
  const auto call = Generate("a", 3 * kMegabyte);
  EXPECT_TRUE(call->Read().ok());
  EXPECT_TRUE(TakeRecord().status.ok());
}

TEST_F(PatientServerTest, AnAnswerBeyondItsBoundCancelsItsRequest) {
  grpc::ClientContext context;
  v1::GenerateResponse response;
  grpc::Status status;
  std::thread client([&] { status = stub_->Generate(&context, Request("a"), &response); });
  engine_.TakeRequest();
  engine::Delta delta;
  delta.logprobs.resize(256);
  for (engine::TokenLogprob& logprob : delta.logprobs) logprob.top.resize(20, {511, -0.5f});
  int num_taken = 0;
  while (engine_.Send("a", delta)) ++num_taken;  // until it is cancelled
  client.join();
  EXPECT_EQ(engine_.TakeCancel().request_id, "a");
  EXPECT_GT(num_taken, 200);  // 64 MB and 0.87 KB a token
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "answer_bytes");
  const CallRecord record = TakeRecord();
  EXPECT_EQ(record.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(record.finish->reason, engine::FinishReason::kCancelled);
}

}  // namespace
}  // namespace spotlight::server
