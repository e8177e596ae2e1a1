#include <limits>
#include <thread>

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
