#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

class GenerateServiceTest : public RunningServer {
 protected:
  GenerateServiceTest() { Serve(); }
};
using LoadingServerTest = RunningServer;

TEST_F(GenerateServiceTest, UnaryAnswerJoinsTheDeltas) {
  std::thread engine([&] {
    const engine::GenerateRequest request = engine_.TakeRequest();
    EXPECT_EQ(std::get<engine::TextPrompt>(request.prompt).text, "hello");
    EXPECT_EQ(*request.sampling.temperature, 0.5f);
    EXPECT_FALSE(request.sampling.top_p.has_value());
    engine_.Prompt(request.request_id, 5);
    engine_.Send(request.request_id, Delta("Hel", {7}));
    engine_.Send(request.request_id, Delta("lo", {8, 9}));
    engine::Finish finish = engine_.Stopped(5, 3);
    finish.matched_stop = "END";
    engine_.Finish(request.request_id, finish);
  });
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("");
  request.set_return_token_ids(true);
  request.mutable_sampling()->set_temperature(0.5f);
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, request, &response);
  engine.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id().rfind("req-", 0), 0u) << response.request_id();
  EXPECT_EQ(response.text(), "Hello");
  EXPECT_EQ(response.token_ids_size(), 3);
  EXPECT_EQ(response.matched_stop(), "END");
  EXPECT_EQ(response.seed(), 42u);
  EXPECT_EQ(response.usage().total_tokens(), 8);
}

TEST_F(GenerateServiceTest, UnaryAnswerOfSeveralSamplesHasTheFirstInItsOwnFields) {
  std::thread engine([&] {
    const std::string id = engine_.TakeRequest().request_id;
    engine_.Prompt(id, 5);
    engine::Delta delta;
    delta.prompt_text = "hello";
    delta.prompt_token_ids = {1, 2};
    engine_.Send(id, delta);
    for (const auto& [index, text] : std::vector<std::pair<int32_t, std::string>>{{2, "x"}, {0, "a"}, {2, "y"}}) {
      delta = Delta(text);
      delta.index = index;
      engine_.Send(id, delta);
    }
    for (const int32_t index : {1, 2, 0}) {
      engine::Finish finish = engine_.Stopped(5, 3);
      finish.index = index;
      finish.seed = 40 + index;
      index == 0 ? engine_.Finish(id, finish) : engine_.FinishSample(id, finish);
    }
  });
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request("a"), &response);
  engine.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.prompt_info().prompt_tokens(), 5);
  EXPECT_EQ(response.prompt_info().text(), "hello");
  EXPECT_EQ(response.prompt_info().token_ids_size(), 0);
  EXPECT_EQ(response.text(), "a");
  EXPECT_EQ(response.seed(), 40u);
  ASSERT_EQ(response.other_samples_size(), 2);
  EXPECT_EQ(response.other_samples(0).text(), "");
  EXPECT_EQ(response.other_samples(0).seed(), 41u);
  EXPECT_EQ(response.other_samples(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.other_samples(1).text(), "xy");
  EXPECT_EQ(response.other_samples(1).seed(), 42u);
  EXPECT_EQ(response.usage().total_tokens(), 8);
}

TEST_F(GenerateServiceTest, UnaryCallTellsTheEngineWhenTheDeadlinePasses) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, Request("a"), &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(engine_.TakeCancel().reason, engine::CancelReason::kDeadline);
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kDeadlineExceeded);
}

// Three bytes of length, the type, the flags, the stream.
std::string Http2Frame(char type, char flags, char stream, const std::string& payload) {
  const auto byte = [&payload](int shift) { return static_cast<char>(payload.size() >> shift); };
  return std::string{byte(16), byte(8), byte(0), type, flags, 0, 0, 0, stream} + payload;
}

// A call by hand: gRPC's own client sends no timeout of more than 27,000 hours.
void SendGenerate(int socket, const std::string& timeout, const v1::GenerateRequest& request) {
  const auto header = [](const std::string& name, const std::string& value) {
    return std::string{0, static_cast<char>(name.size())} + name + static_cast<char>(value.size()) + value;
  };
  const std::string message = request.SerializeAsString();
  const std::string bytes =
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Http2Frame(4, 0, 0, "") +
      Http2Frame(1, 4, 1,
                 header(":method", "POST") + header(":scheme", "http") + header(":authority", "localhost") +
                     header(":path", "/spotlight.v1.Generation/Generate") + header("te", "trailers") +
                     header("content-type", "application/grpc") + header("grpc-timeout", timeout)) +
      Http2Frame(0, 1, 1, std::string{0, 0, 0, 0, static_cast<char>(message.size())} + message);
  ASSERT_EQ(send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

TEST_F(GenerateServiceTest, ATimeoutOfMoreThanTenYearsIsNone) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server_->grpc_port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (const auto& [timeout, is_none] : std::vector<std::pair<std::string, bool>>{
           {"99999999H", true}, {"2600000H", true}, {"99999H", true}, {"80000H", false}, {"99999999S", false}}) {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    SendGenerate(connection, timeout, Request("a"));
    const absl::Duration left = engine_.TakeRequest().timeout;
    EXPECT_EQ(left == absl::InfiniteDuration(), is_none) << timeout << ": " << left;
    EXPECT_GT(left, absl::Hours(20'000));
    engine_.Finish("a", engine_.Stopped(5, 1));
    EXPECT_EQ(TakeRecord().finish->reason, engine::FinishReason::kStop);
    close(connection);
  }
}

TEST_F(GenerateServiceTest, UnaryCallTellsTheEngineWhenTheClientCancels) {
  grpc::ClientContext context;
  std::thread client([&] {
    engine_.TakeRequest();
    context.TryCancel();
  });
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, Request("a"), &response).error_code(), grpc::StatusCode::CANCELLED);
  client.join();
  EXPECT_EQ(engine_.TakeCancel().reason, engine::CancelReason::kClientGone);
}

TEST_F(GenerateServiceTest, FullQueueCarriesQuotaFailureAndRetryInfo) {
  engine_.set_submit_status(absl::ResourceExhaustedError("queue_requests: 256 requests wait, which is the limit"));
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request("a"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "queue_requests");
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 0);
}

TEST_F(GenerateServiceTest, SecondRequestWithAnIdInUseIsRefused) {
  grpc::ClientContext first;
  auto reader = stub_->GenerateStream(&first, Request("a"));
  engine_.TakeRequest();
  grpc::ClientContext second;
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&second, Request("a"), &response).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(GenerateServiceTest, TextThatIsNotUtf8IsNamed) {
  v1::GenerateRequest request = Request("a");
  request.set_text("ab\xff");
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "text");
}

TEST_F(GenerateServiceTest, TokenizesAndDetokenizes) {
  v1::TokenizeRequest request;
  request.mutable_chat()->add_messages()->set_content("abc");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, request, &tokens).ok());
  EXPECT_EQ(tokens.token_ids_size(), 3);
  EXPECT_EQ(tokens.max_context_tokens(), 8192);

  v1::DetokenizeRequest ids;
  *ids.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, ids, &text).ok());
  EXPECT_EQ(text.text(), "abc");

  ids.add_token_ids(512);
  grpc::ClientContext third;
  const grpc::Status status = stub_->Detokenize(&third, ids, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "token_ids");

  grpc::ClientContext fourth;
  EXPECT_EQ(stub_->Tokenize(&fourth, v1::TokenizeRequest(), &tokens).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GenerateServiceTest, WhatIsLongerThanAnyPromptIsNeitherTokenizedNorDetokenized) {
  v1::TokenizeRequest text;
  text.set_text(std::string(8193, 'x'));
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  grpc::Status status = stub_->Tokenize(&first, text, &tokens);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "text");

  v1::DetokenizeRequest ids;
  ids.mutable_token_ids()->Resize(8193, 'x');
  v1::DetokenizeResponse detokenized;
  grpc::ClientContext second;
  status = stub_->Detokenize(&second, ids, &detokenized);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "token_ids");
}

TEST_F(GenerateServiceTest, AbortOfAnUnknownRequestIsNotFound) {
  v1::AbortRequest request;
  v1::AbortResponse response;
  grpc::ClientContext first;
  EXPECT_EQ(stub_->Abort(&first, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_request_id("nobody");
  grpc::ClientContext second;
  EXPECT_EQ(stub_->Abort(&second, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LoadingServerTest, CapacityOfALargeCacheDoesNotOverflow) {
  engine_.mutable_options()->scheduler.num_pages = 40'000'000;
  Serve();
  grpc::ClientContext context;
  v1::GetServerInfoResponse server;
  ASSERT_TRUE(stub_->GetServerInfo(&context, {}, &server).ok());
  EXPECT_EQ(server.kv_cache_tokens(), int64_t{40'000'000} * kernels::kPageTokens);
}

TEST_F(GenerateServiceTest, TellsWhatIsServedAndHowBusyItIs) {
  grpc::ClientContext first;
  v1::GetModelInfoResponse model;
  ASSERT_TRUE(stub_->GetModelInfo(&first, {}, &model).ok());
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.quantization(), "fp8");
  EXPECT_EQ(model.kv_cache_dtype(), "fp8");
  EXPECT_EQ(model.hash().hash_bits(), 128);
  EXPECT_EQ(model.hash().layers_size(), 2);
  EXPECT_DOUBLE_EQ(model.hash().budget_ratio(), 0.02);
  EXPECT_TRUE(model.has_chat_template());

  grpc::ClientContext second;
  v1::GetServerInfoResponse server;
  ASSERT_TRUE(stub_->GetServerInfo(&second, {}, &server).ok());
  EXPECT_EQ(server.libtorch_version(), "2.11.0");
  EXPECT_EQ(server.kv_cache_tokens(), 6400);
  EXPECT_EQ(server.max_waiting_requests(), 256);
  EXPECT_GE(server.uptime_seconds(), 0);

  grpc::ClientContext third;
  v1::GetLoadsResponse loads;
  ASSERT_TRUE(stub_->GetLoads(&third, {}, &loads).ok());
  EXPECT_DOUBLE_EQ(loads.kv_cache_usage_ratio(), 0.25);
  EXPECT_EQ(loads.free_kv_cache_tokens(), 75 * 64);
}

TEST_F(LoadingServerTest, AnswersUnavailableWithRetryInfoUntilTheModelIsLoaded) {
  grpc::ClientContext first;
  v1::GenerateResponse response;
  grpc::Status status = stub_->Generate(&first, Request("a"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 0);
  grpc::ClientContext second;
  status = stub_->GenerateStream(&second, Request("a"))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext third;
  v1::GetLoadsResponse loads;
  EXPECT_EQ(stub_->GetLoads(&third, {}, &loads).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GenerateServiceTest, RefusesNewRequestsWhileDraining) {
  server_->Drain(absl::Seconds(3));
  EXPECT_EQ(engine_.drain_grace(), absl::Seconds(3));
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request("a"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 0);
}

TEST_F(GenerateServiceTest, ShutdownEndsRunningStreams) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  server_->Shutdown();
  EXPECT_EQ(engine_.TakeCancel().request_id, "a");
  EXPECT_FALSE(reader->Finish().ok());
}

}  // namespace
}  // namespace spotlight::server
