#include <string>
#include <thread>
#include <vector>

#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

class GenerateStreamTest : public RunningServer {
 protected:
  GenerateStreamTest() { Serve(); }
};

TEST_F(GenerateStreamTest, SendsPromptInfoFirstTextInOrderAndFiguresLast) {
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("a");
  request.set_return_token_ids(true);
  auto reader = stub_->GenerateStream(&context, request);
  EXPECT_EQ(engine_.TakeRequest().request_id, "a");

  v1::GenerateStreamResponse message;
  engine_.Prompt("a", 5);
  engine_.Send("a", Delta("Hel", {7}));
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.request_id(), "a");
  EXPECT_EQ(message.prompt_info().prompt_tokens(), 5);
  EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  EXPECT_EQ(message.text(), "Hel");
  ASSERT_EQ(message.token_ids_size(), 1);
  EXPECT_EQ(message.token_ids(0), 7);

  engine_.Send("a", Delta("lo", {8}));
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.text(), "lo");
  EXPECT_FALSE(message.has_prompt_info());

  engine::Finish finish = engine_.Stopped(5, 2);
  finish.matched_stop_token = 2;
  finish.timings.decode = 0.25;
  finish.retrieval.dense_steps = 1;
  finish.retrieval.dense_reason = engine::DenseReason::kShortContext;
  engine_.Finish("a", finish);
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(message.matched_stop_token_id(), 2);
  EXPECT_EQ(message.seed(), 42u);
  EXPECT_EQ(message.usage().total_tokens(), 7);
  EXPECT_EQ(message.timings().decode_seconds(), 0.25);
  EXPECT_EQ(message.retrieval().dense_reason(), v1::DENSE_REASON_SHORT_CONTEXT);
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(TakeRecord().finish->usage.completion_tokens, 2);
}

class RetriedStreamTest : public GenerateStreamTest {
 protected:
  RetriedStreamTest() {
    grpc::ChannelArguments arguments;
    arguments.SetServiceConfigJSON(R"({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"]}}]})");
    stub_ = v1::Generation::NewStub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->grpc_port()),
                                                              grpc::InsecureChannelCredentials(), arguments));
  }
  // As when the server's grace is over.
  static engine::Finish ShutDown(int32_t completion_tokens) {
    engine::Finish finish = spotlight::testing::FakeEngine::Stopped(5, completion_tokens);
    finish.reason = engine::FinishReason::kAborted;
    finish.status = absl::UnavailableError("the server is shutting down");
    return finish;
  }
};

TEST_F(RetriedStreamTest, ARequestThatHadNoOutputYetIsLeftToTheClientLibraryToTryElsewhere) {
  std::thread work([&] {
    engine_.TakeRequest();
    engine_.Prompt("a", 5);
    engine::Delta echo;
    echo.prompt_text = "hello";
    engine_.Send("a", echo);
    engine::Finish sample = ShutDown(0);
    sample.index = 1;
    engine_.FinishSample("a", sample);
    engine_.Finish("a", ShutDown(0));
    EXPECT_EQ(engine_.TakeRequest().request_id, "a") << "the second attempt";
    engine_.Prompt("a", 6);
    engine_.Send("a", Delta("x", {7}));
    engine_.Finish("a", engine_.Stopped(6, 1));
  });
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  v1::GenerateStreamResponse message;
  EXPECT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.prompt_info().prompt_tokens(), 6);
  EXPECT_EQ(message.prompt_info().text(), "");
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  work.join();
}

TEST_F(RetriedStreamTest, ARequestThatHadOneIsNot) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Prompt("a", 5);
  engine_.Send("a", Delta("x", {7}));
  engine_.Finish("a", ShutDown(1));
  v1::GenerateStreamResponse message;
  v1::GenerateStreamResponse last;
  while (reader->Read(&message)) last = message;
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_ABORTED);
  EXPECT_EQ(last.usage().completion_tokens(), 1);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GenerateStreamTest, SamplesKeepTheirOwnMessagesAndTheLastOneToEndBringsTheUsage) {
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("a");
  request.mutable_sampling()->set_n(2);
  request.mutable_retrieval()->set_return_stats(false);
  auto reader = stub_->GenerateStream(&context, request);
  EXPECT_EQ(engine_.TakeRequest().sampling.n, 2);
  engine_.Prompt("a", 5);
  const auto send = [&](int32_t index, const std::string& text) {
    engine::Delta delta = Delta(text);
    delta.index = index;
    engine_.Send("a", delta);
  };
  send(0, "a");
  send(1, "x");
  send(1, "y");
  engine::Finish finish = engine_.Stopped(5, 2);
  finish.index = 1;
  finish.seed = 43;
  engine_.FinishSample("a", finish);
  send(0, "b");
  finish = engine_.Stopped(5, 4);
  engine_.Finish("a", finish);

  std::string texts[2];
  std::vector<v1::GenerateStreamResponse> ends;
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
    texts[message.index()] += message.text();
    if (message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) ends.push_back(message);
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(texts[0], "ab");
  EXPECT_EQ(texts[1], "xy");
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_EQ(ends[0].index(), 1);
  EXPECT_EQ(ends[0].seed(), 43u);
  EXPECT_TRUE(ends[0].has_timings());
  EXPECT_FALSE(ends[0].has_usage());
  EXPECT_FALSE(ends[0].has_retrieval());
  EXPECT_EQ(ends[1].index(), 0);
  EXPECT_EQ(ends[1].seed(), 42u);
  EXPECT_EQ(ends[1].usage().total_tokens(), 9);
  EXPECT_FALSE(ends[1].has_retrieval());
}

TEST_F(GenerateStreamTest, AnEchoLargerThanTheUnreadBoundIsNoReasonToCancel) {
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("a");
  request.set_echo(true);
  request.set_return_token_ids(true);
  auto reader = stub_->GenerateStream(&context, request);
  EXPECT_TRUE(engine_.TakeRequest().echo);
  engine_.Prompt("a", 5);
  engine::Delta echo;
  echo.prompt_text = std::string(64 << 10, 'p');
  echo.prompt_token_ids = {1, 2, 3};
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(engine_.Send("a", echo));
  engine::Delta scored;
  scored.prompt_logprobs = {{7, -0.5f, {{8, -0.25f}}}};
  engine_.Send("a", scored);
  engine_.Send("a", Delta("answer"));
  engine_.Finish("a", engine_.Stopped(5, 1));
  std::string text, prompt;
  int num_ids = 0, num_scored = 0;
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
    EXPECT_LT(message.ByteSizeLong(), 1u << 20);
    EXPECT_TRUE(message.prompt_info().text().empty() || text.empty());
    if (message.has_prompt_info()) {
      EXPECT_EQ(message.prompt_info().prompt_tokens(), 5);
    }
    prompt += message.prompt_info().text();
    num_ids += message.prompt_info().token_ids_size();
    num_scored += message.prompt_info().logprobs_size();
    if (message.prompt_info().logprobs_size() > 0) {
      EXPECT_EQ(message.prompt_info().logprobs(0).token_id(), 7);
      EXPECT_EQ(message.prompt_info().logprobs(0).top(0).logprob(), -0.25f);
    }
    text += message.text();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(prompt.size(), size_t{100} << 16);
  EXPECT_EQ(num_ids, 300);
  EXPECT_EQ(num_scored, 1);
  EXPECT_EQ(text, "answer");
}

TEST_F(GenerateStreamTest, LeavesTokenIdsOutUnlessAskedFor) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Send("a", Delta("", {7}));
  engine_.Send("a", Delta("x", {8}));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.text(), "x");
  EXPECT_EQ(message.token_ids_size(), 0);
}

TEST_F(GenerateStreamTest, MergesDeltasWhileTheReaderIsSlow) {
  constexpr int kNumDeltas = 1500;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  std::string expected;
  for (int i = 0; i < kNumDeltas; ++i) {
    const std::string text = std::to_string(i) + std::string(2000, 'x');
    expected += text;
    engine_.Send("a", Delta(text));
  }
  engine_.Finish("a", engine_.Stopped(5, kNumDeltas));

  v1::GenerateStreamResponse message;
  v1::GenerateStreamResponse last;
  std::string text;
  int num_messages = 0;
  size_t longest = 0;
  while (reader->Read(&message)) {
    text += message.text();
    longest = std::max(longest, message.text().size());
    ++num_messages;
    last = message;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(text == expected) << "the texts differ";
  EXPECT_LT(num_messages, kNumDeltas / 4);
  EXPECT_LE(longest, 300u << 10);  // merging has a bound: clients refuse messages over 4 MB
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(GenerateStreamTest, CancelsTheRequestOfAReaderThatDoesNotRead) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  // 16 MB: more than gRPC's windows and the server together hold.
  const std::string text(16 << 10, 'x');
  for (int i = 0; i < 1024; ++i) engine_.Send("a", Delta(text));
  EXPECT_EQ(engine_.TakeCancel().request_id, "a");

  v1::GenerateStreamResponse message;
  v1::GenerateStreamResponse last;
  while (reader->Read(&message)) last = message;
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_CANCELLED);
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "unread_bytes");
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(GenerateStreamTest, SamplesOfASlowReaderMergeEachWithItsOwn) {
  constexpr int kNumSamples = 8, kNumDeltas = 300;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  std::vector<std::string> expected(kNumSamples), texts(kNumSamples);
  for (int i = 0; i < kNumDeltas; ++i) {
    for (int sample = 0; sample < kNumSamples; ++sample) {
      engine::Delta delta = Delta(absl::StrCat(sample, ".", i, std::string(1000, 'x')));
      delta.index = sample;
      expected[sample] += delta.text;
      engine_.Send("a", delta);
    }
  }
  for (int sample = 0; sample < kNumSamples; ++sample) {
    engine::Finish finish = engine_.Stopped(5, 1);
    finish.index = sample;
    if (sample > 0) engine_.FinishSample("a", finish);
  }
  engine_.Finish("a", engine_.Stopped(5, 1));
  v1::GenerateStreamResponse message, last;
  int num_messages = 0;
  for (; reader->Read(&message); ++num_messages) {
    texts[message.index()] += message.text();
    EXPECT_FALSE(last.has_usage()) << "a message follows the stream's last";
    last = message;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(last.has_usage());
  EXPECT_TRUE(texts == expected) << "the texts differ";
  EXPECT_LT(num_messages, kNumDeltas * kNumSamples / 8);
}

TEST_F(GenerateStreamTest, APromptsLogprobsHaveABoundOfTheirOwn) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine::Delta delta;
  delta.prompt_logprobs.resize(64);
  for (engine::TokenLogprob& logprob : delta.prompt_logprobs) logprob.top.resize(20, {511, -0.5f});
  // 16,000 tokens, 14 MB: a prompt that is computed in less time than a client takes to read that much.
  for (int i = 0; i < 250; ++i) ASSERT_TRUE(engine_.Send("a", delta));
  ASSERT_TRUE(engine_.Send("a", Delta("answer")));
  engine_.Finish("a", engine_.Stopped(16001, 1));
  v1::GenerateStreamResponse message;
  int num_scored = 0;
  while (reader->Read(&message)) num_scored += message.prompt_info().logprobs_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(num_scored, 16000);

  grpc::ClientContext other_context;
  auto other = stub_->GenerateStream(&other_context, Request("b"));
  engine_.TakeRequest();
  for (int i = 0; i < 1000; ++i) engine_.Send("b", delta);
  EXPECT_EQ(engine_.TakeCancel().request_id, "b");
  other_context.TryCancel();
}

TEST_F(GenerateStreamTest, TheLogprobsOfOneStepsPromptTokensComeInMessagesThatAnyClientTakes) {
  constexpr int kNumTokens = 20'000;  // 4.6 MB on the wire
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Prompt("a", kNumTokens + 1);
  engine::Delta delta;
  delta.prompt_logprobs.resize(kNumTokens);
  for (int i = 0; i < kNumTokens; ++i) {
    delta.prompt_logprobs[i].token_id = i;
    delta.prompt_logprobs[i].top.resize(20, {511, -0.5f});
  }
  ASSERT_TRUE(engine_.Send("a", delta));
  engine_.Send("a", Delta("answer"));
  engine_.Finish("a", engine_.Stopped(kNumTokens + 1, 1));
  v1::GenerateStreamResponse message;
  int num_scored = 0;
  while (reader->Read(&message)) {
    EXPECT_LT(message.ByteSizeLong(), 1u << 20);
    if (message.has_prompt_info()) {
      EXPECT_EQ(message.prompt_info().prompt_tokens(), kNumTokens + 1);
    }
    for (const v1::TokenLogprob& logprob : message.prompt_info().logprobs()) {
      ASSERT_EQ(logprob.token_id(), num_scored);
      EXPECT_EQ(logprob.top_size(), 20);
      ++num_scored;
    }
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_scored, kNumTokens);
  EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_STOP);
}

class ImpatientServerTest : public RunningServer {
 protected:
  ImpatientServerTest() : RunningServer(Impatient()) {
    // A window of 64 KB for good: gRPC otherwise finds that this connection could hold some MB, and takes them unread.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->grpc_port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Generation::NewStub(channel_);
    Serve();
  }
  static ServerOptions Impatient() {
    ServerOptions options;
    options.unread_patience = absl::Milliseconds(400);
    return options;
  }
};

TEST_F(ImpatientServerTest, EndsTheStreamOfAClientThatTakesNothing) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  // 3 MB: less than may wait, and more than gRPC takes without a reader.
  const std::string text(16 << 10, 'x');
  for (int i = 0; i < 192; ++i) ASSERT_TRUE(engine_.Send("a", Delta(text)));
  EXPECT_EQ(engine_.TakeCancel().reason, engine::CancelReason::kClientGone);
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kResourceExhausted);

  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "unread_bytes: the client has taken nothing for 400ms");
}

TEST_F(ImpatientServerTest, EndsTheStreamThatOnlyItsReaderStillHolds) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  const std::string text(16 << 10, 'x');
  for (int i = 0; i < 192; ++i) ASSERT_TRUE(engine_.Send("a", Delta(text)));
  engine_.Finish("a", engine_.Stopped(5, 192));
  const CallRecord record = TakeRecord();
  EXPECT_EQ(record.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(record.finish->reason, engine::FinishReason::kStop);
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ImpatientServerTest, WaitsForAClientThatReadsNowAndThen) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  const std::string text(128 << 10, 'x');
  for (int i = 0; i < 24; ++i) ASSERT_TRUE(engine_.Send("a", Delta(text)));
  engine_.Finish("a", engine_.Stopped(5, 24));
  v1::GenerateStreamResponse message;
  size_t num_bytes = 0;
  while (reader->Read(&message)) {
    num_bytes += message.text().size();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(num_bytes, 24 * text.size());
}

TEST_F(GenerateStreamTest, CountsLogprobsOfAReaderThatDoesNotRead) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine::Delta delta;
  delta.logprobs.resize(64);
  for (engine::TokenLogprob& logprob : delta.logprobs) logprob.top.resize(20, {511, -0.5f});
  for (int i = 0; i < 1024; ++i) engine_.Send("a", delta);
  EXPECT_EQ(engine_.TakeCancel().request_id, "a");
  context.TryCancel();
}

TEST_F(GenerateStreamTest, TellsTheEngineWhenTheClientCancels) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Send("a", Delta("x"));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  const auto cancel = engine_.TakeCancel();
  EXPECT_EQ(cancel.request_id, "a");
  EXPECT_EQ(cancel.reason, engine::CancelReason::kClientGone);
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerateStreamTest, TakesDeltasAfterTheClientIsGone) {
  engine_.set_finish_on_cancel(false);
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  context.TryCancel();
  const auto cancel = engine_.TakeCancel();
  EXPECT_TRUE(engine_.Send("a", Delta("late")));
  EXPECT_TRUE(engine_.Finish("a", engine_.Cancelled(cancel.reason)));
  reader->Finish();
  EXPECT_EQ(TakeRecord().finish->reason, engine::FinishReason::kCancelled);
}

TEST_F(GenerateStreamTest, EndsOnceWhenFinishAndCancelRace) {
  for (int round = 0; round < 200; ++round) {
    const std::string id = absl::StrCat("r", round);
    grpc::ClientContext context;
    auto reader = stub_->GenerateStream(&context, Request(id));
    engine_.TakeRequest();
    engine_.Send(id, Delta("x"));
    std::thread finisher([&] { engine_.Finish(id, engine_.Stopped(5, 1)); });
    context.TryCancel();
    finisher.join();
    reader->Finish();
    EXPECT_EQ(TakeRecord().request_id, id);
  }
  EXPECT_EQ(engine_.Load().num_running, 0);
}

TEST_F(GenerateStreamTest, EndsWithDeadlineExceededWhenTheDeadlinePasses) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  auto reader = stub_->GenerateStream(&context, Request("a"));
  const auto cancel = engine_.TakeCancel();
  EXPECT_EQ(cancel.reason, engine::CancelReason::kDeadline);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(TakeRecord().status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(GenerateStreamTest, SendsFiguresThenStatusWhenAborted) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Send("a", Delta("x"));
  grpc::ClientContext abort_context;
  v1::AbortRequest abort;
  abort.set_request_id("a");
  v1::AbortResponse aborted;
  EXPECT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_EQ(engine_.TakeCancel().reason, engine::CancelReason::kAborted);
  v1::GenerateStreamResponse message;
  v1::GenerateStreamResponse last;
  while (reader->Read(&message)) last = message;
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_ABORTED);
  EXPECT_EQ(last.usage().prompt_tokens(), 5);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GenerateStreamTest, NamesTheFieldThatTheEngineRefuses) {
  engine_.set_submit_status(absl::InvalidArgumentError("stopping.max_tokens: must be at least 1, got 0"));
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_EQ(detail.field_violations_size(), 1);
  EXPECT_EQ(detail.field_violations(0).field(), "stopping.max_tokens");
  EXPECT_EQ(detail.field_violations(0).description(), "must be at least 1, got 0");
  EXPECT_FALSE(TakeRecord().finish.has_value());
}

TEST_F(GenerateStreamTest, ReportsAnErrorFoundAfterAcceptance) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine::Finish finish;
  finish.reason = engine::FinishReason::kError;
  finish.status = absl::InvalidArgumentError("text: 9000 tokens do not fit into a context of 8192");
  engine_.Finish("a", finish);
  v1::GenerateStreamResponse message;
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "text");
}

TEST_F(GenerateStreamTest, RunsManyStreamsAtOnceOverOneChannel) {
  constexpr int kNumStreams = 64;
  std::vector<grpc::ClientContext> contexts(kNumStreams);
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> readers;
  for (int i = 0; i < kNumStreams; ++i) {
    readers.push_back(stub_->GenerateStream(&contexts[i], Request(absl::StrCat(i))));
    engine_.TakeRequest();
  }
  for (int step = 0; step < 10; ++step) {
    for (int i = 0; i < kNumStreams; ++i) engine_.Send(absl::StrCat(i), Delta(absl::StrCat(i, ";")));
  }
  for (int i = 0; i < kNumStreams; ++i) engine_.Finish(absl::StrCat(i), engine_.Stopped(1, 10));
  for (int i = 0; i < kNumStreams; ++i) {
    std::string text;
    std::string expected;
    for (int step = 0; step < 10; ++step) expected += absl::StrCat(i, ";");
    for (v1::GenerateStreamResponse message; readers[i]->Read(&message);) text += message.text();
    EXPECT_EQ(text, expected);
    EXPECT_TRUE(readers[i]->Finish().ok());
  }
}

}  // namespace
}  // namespace spotlight::server
