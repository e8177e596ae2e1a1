#include "engine/engine.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/tiny_model.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

// The whole engine with its threads.
class EngineTest : public testing::Test {
 protected:
  EngineTest() {
    options_.scheduler.num_pages = 64;
    options_.scheduler.max_running = 8;
    options_.scheduler.max_step_tokens = 128;
  }

  void Start(const ModelInfo& model = TinyModelInfo(), bool with_template = true) {
    auto runner = std::make_unique<FakeModelRunner>(options_.scheduler.num_pages, kTinyVocabSize);
    runner_ = runner.get();
    auto engine = Engine::Create(options_, model, LoadTinyTokenizer(), with_template ? LoadTinyChatTemplate() : nullptr,
                                 std::move(runner), &observer_, &clock_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  static GenerateRequest Request(const std::string& id, int32_t max_tokens, std::vector<int32_t> prompt = {1, 2, 3}) {
    GenerateRequest request;
    request.request_id = id;
    request.prompt = TokenPrompt{std::move(prompt)};
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    return request;
  }

  // Long enough to be encoded elsewhere, and 2,500 tokens, which the cache holds.
  static std::string LongText() {
    std::string text;
    for (int i = 0; i < 2500; ++i) text += " France";
    return text;
  }

  std::shared_ptr<RecordingSink> Submit(GenerateRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }

  absl::Status SubmitError(GenerateRequest request) {
    return engine_->Submit(std::move(request), std::make_shared<RecordingSink>());
  }

  EngineOptions options_;
  FakeClock clock_;
  RecordingObserver observer_;
  FakeModelRunner* runner_ = nullptr;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, ServesManyRequestsAtOnce) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 30; ++i) {
    sinks.push_back(Submit(Request("r" + std::to_string(i), 20, {1 + i, 2, 3})));
  }
  for (const auto& sink : sinks) {
    EXPECT_TRUE(sink->WaitForFinish().status.ok());
    EXPECT_EQ(sink->token_ids().size(), 20u);
  }
  EXPECT_LE(runner_->max_rows(), 8);
  EXPECT_EQ(observer_.requests().size(), 30u);
  EXPECT_EQ(engine_->Load().num_free_pages, 64);
}

TEST_F(EngineTest, EncodesTextWithSpecialTokensAndChatsThroughTheTemplate) {
  Start();
  const auto text = engine_->Tokenize(TextPrompt{"Hello"});
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->front(), 508);  // the tokenizer adds its BOS
  const auto chat = engine_->Tokenize(ChatPrompt{{{"user", "Hello"}}});
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(chat->front(), 508);  // the template's own, once
  EXPECT_NE((*chat)[1], 508);
  const auto round_trip = engine_->Detokenize(*chat);
  ASSERT_TRUE(round_trip.ok());
  EXPECT_EQ(*round_trip, "<|begin_of_text|><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");

  GenerateRequest request = Request("a", 1);
  request.prompt = ChatPrompt{{{"user", "Hello"}}};
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->WaitForFinish().status.ok());
  EXPECT_EQ(sink->prompt_tokens(), static_cast<int32_t>(chat->size()));
}

TEST_F(EngineTest, LongPromptsAreEncodedElsewhereAndTheirErrorsComeThroughTheSink) {
  Start();
  GenerateRequest request = Request("fits", 1);
  request.prompt = TextPrompt{LongText()};
  const auto fits = Submit(request);
  request.request_id = "too long";
  std::string text;
  while (text.size() < 40000) text += "q7Z ";
  request.prompt = TextPrompt{text};
  const auto too_long = Submit(request);
  const absl::Status status = too_long->WaitForFinish().status;
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message().substr(0, 6), "text: ");
  EXPECT_EQ(too_long->prompt_tokens(), -1);
  EXPECT_TRUE(fits->WaitForFinish().status.ok());
  EXPECT_EQ(fits->prompt_tokens(), 2501);  // with the one that every text begins with
  EXPECT_EQ(engine_->Load().num_waiting, 0);
}

TEST_F(EngineTest, RefusesBadRequestsAtOnceAndServesTheRest) {
  Start(TinyModelInfo(), /*with_template=*/false);
  GenerateRequest bad = Request("bad", 1);
  bad.sampling.temperature = -1.0f;
  EXPECT_EQ(SubmitError(bad).message(), "sampling.temperature: must be finite and >= 0, got -1");
  bad = Request("bad", 1);
  bad.prompt = ChatPrompt{{{"user", "Hello"}}};
  EXPECT_EQ(SubmitError(bad).code(), StatusCode::kFailedPrecondition);
  bad = Request("bad", 1);
  bad.retrieval.mode = RetrievalMode::kSparse;
  EXPECT_EQ(SubmitError(bad).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(SubmitError(Request("bad", 1, std::vector<int32_t>(8192, 1))).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Request("bad", 1, std::vector<int32_t>(64 * 64, 1))).message(),
            "token_ids: a prompt of 4096 tokens leaves no room for output in the KV cache of 4096 tokens");
  EXPECT_TRUE(Submit(Request("bad", 1))->WaitForFinish().status.ok());  // no trace is left of the id
}

TEST_F(EngineTest, AnIdInUseIsRefusedAndFreeAgainAfterTheEnd) {
  Start();
  runner_->Pause();
  const auto first = Submit(Request("a", 1));
  EXPECT_EQ(SubmitError(Request("a", 1)).code(), StatusCode::kAlreadyExists);
  runner_->Resume();
  first->WaitForFinish();
  EXPECT_TRUE(Submit(Request("a", 1))->WaitForFinish().status.ok());
}

TEST_F(EngineTest, AFullQueueRefuses) {
  options_.queue.max_waiting_requests = 3;
  options_.scheduler.max_running = 1;
  Start();
  const auto running = Submit(Request("running", 1000));
  running->WaitForDeltas(1);
  runner_->Pause();
  for (const char* id : {"a", "b", "c"}) Submit(Request(id, 1));
  EXPECT_EQ(SubmitError(Request("d", 1)).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->Load().num_waiting, 3);
  EXPECT_EQ(engine_->Load().num_waiting_tokens, 9);
  runner_->Resume();
}

TEST_F(EngineTest, CancelEndsARunningRequest) {
  Start();
  GenerateRequest request = Request("a", 1);
  request.stopping.max_tokens.reset();
  const auto sink = Submit(request);
  sink->WaitForDeltas(3);
  EXPECT_TRUE(engine_->Cancel("a", CancelReason::kAborted, {}).ok());
  EXPECT_EQ(sink->WaitForFinish().reason, FinishReason::kAborted);
  EXPECT_EQ(engine_->Load().num_free_pages, 64);
  EXPECT_EQ(engine_->Cancel("a", CancelReason::kAborted, {}).code(), StatusCode::kNotFound);
}

TEST_F(EngineTest, ALateCancelOfASubmissionLeavesTheNextOwnerOfItsIdAlone) {
  Start();
  const auto first = Submit(Request("a", 1));
  first->WaitForFinish();
  runner_->Pause();
  const auto second = Submit(Request("a", 5));
  EXPECT_EQ(engine_->Cancel("a", CancelReason::kClientGone, {first.get()}).code(), StatusCode::kNotFound);
  runner_->Resume();
  EXPECT_TRUE(second->WaitForFinish().status.ok());
  runner_->Pause();
  const auto third = Submit(Request("a", 5));
  EXPECT_TRUE(engine_->Cancel("a", CancelReason::kClientGone, {third.get()}).ok());
  runner_->Resume();
  EXPECT_EQ(third->WaitForFinish().reason, FinishReason::kCancelled);
}

TEST_F(EngineTest, CancelEndsWhatWaitsToBeEncoded) {
  Start();
  runner_->Pause();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 20; ++i) {
    GenerateRequest request = Request(std::to_string(i), 5);
    request.prompt = TextPrompt{LongText()};
    sinks.push_back(Submit(request));
  }
  for (int i = 19; i >= 0; --i) {
    EXPECT_TRUE(engine_->Cancel(std::to_string(i), CancelReason::kAborted, {sinks[i].get()}).ok());
  }
  runner_->Resume();
  for (const auto& sink : sinks) EXPECT_EQ(sink->WaitForFinish().reason, FinishReason::kAborted);
  EXPECT_EQ(engine_->Load().num_waiting, 0);
  EXPECT_EQ(engine_->Load().num_free_pages, 64);
}

TEST_F(EngineTest, TextThatNoContextCouldHoldIsRefusedBeforeItIsTokenised) {
  Start();
  // 4096 tokens of cache, 17 bytes in the longest token.
  const std::string reason =
      ": a prompt of 69633 bytes is over the 69632 that 4096 tokens of at most 17 bytes can hold";
  const std::string text(69633, 'x');
  EXPECT_EQ(engine_->CheckTextSize(text), absl::InvalidArgumentError("text" + reason));
  EXPECT_TRUE(engine_->CheckTextSize(text.substr(1)).ok());
  EXPECT_EQ(engine_->Tokenize(TextPrompt{text}).status(), absl::InvalidArgumentError("text" + reason));
  GenerateRequest request = Request("a", 1);
  request.prompt = TextPrompt{text};
  EXPECT_EQ(engine_->Submit(request, std::make_shared<RecordingSink>()), absl::InvalidArgumentError("text" + reason));
  EXPECT_EQ(engine_->Load().num_waiting, 0);
  const absl::Status chat = engine_->Tokenize(ChatPrompt{{{"user", text}}}).status();
  EXPECT_EQ(chat.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(chat.message().substr(0, 6), "chat: ");
}

TEST_F(EngineTest, ARepetitionPenaltySeesThePromptsDistinctIds) {
  Start();
  std::vector<int32_t> ids;
  runner_->OnRun([&](const Batch& batch) {
    if (!batch.samples.empty()) ids = *batch.samples[0].prompt_token_ids;
  });
  GenerateRequest request = Request("a", 1, {7, 3, 7, 9, 3});
  request.sampling.repetition_penalty = 1.5f;
  EXPECT_TRUE(Submit(request)->WaitForFinish().status.ok());
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 3, 9}));
}

TEST_F(EngineTest, SeedsAreDrawnReportedAndRepeatable) {
  Start();
  GenerateRequest request = Request("a", 30);
  request.sampling.temperature = 1.0f;
  const auto first = Submit(request);
  const uint64_t seed = first->WaitForFinish().seed;
  request.request_id = "b";
  const auto another = Submit(request);
  EXPECT_NE(another->WaitForFinish().seed, seed);
  EXPECT_NE(another->token_ids(), first->token_ids());
  request.sampling.seed = seed;
  const auto same = Submit(request);
  EXPECT_EQ(same->WaitForFinish().seed, seed);
  EXPECT_EQ(same->token_ids(), first->token_ids());
}

TEST_F(EngineTest, AnEchoOfIdsIsBoundedByTheIdsThatCame) {
  Start();
  const int32_t long_id = engine_->Tokenize(TextPrompt{"x"})->front();  // <|begin_of_text|>, 17 bytes
  GenerateRequest request = Request("a", 1);
  request.echo = true;
  request.prompt = TokenPrompt{std::vector<int32_t>(3855, long_id)};  // 65,535 bytes
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->WaitForFinish().status.ok());
  EXPECT_EQ(sink->prompt_text().size(), 3855u * 17);
  request.prompt = TokenPrompt{std::vector<int32_t>(3856, long_id)};
  EXPECT_EQ(SubmitError(request),
            absl::InvalidArgumentError(
                "echo: 3856 tokens stand for 65552 bytes of text, over the 65536 that are given back of ids"));
  EXPECT_EQ(engine_->Load().num_waiting_tokens, 0);
  request.echo = false;
  EXPECT_TRUE(Submit(request)->WaitForFinish().status.ok());
}

TEST_F(EngineTest, APromptIsTruncatedAtItsBeginningAndEchoedAsTheModelReadsIt) {
  Start();
  GenerateRequest request = Request("a", 1);
  request.prompt = TextPrompt{"Hello Hello Hello"};
  request.echo = true;
  const auto whole = Submit(request);
  EXPECT_TRUE(whole->WaitForFinish().status.ok());
  EXPECT_EQ(whole->prompt_text(), "<|begin_of_text|>Hello Hello Hello");
  const std::vector<int32_t> ids = *engine_->Tokenize(request.prompt);
  request.truncate_prompt_tokens = static_cast<int32_t>(ids.size()) - 1;
  const auto truncated = Submit(request);
  EXPECT_TRUE(truncated->WaitForFinish().status.ok());
  EXPECT_EQ(truncated->prompt_tokens(), static_cast<int32_t>(ids.size()) - 1);
  EXPECT_EQ(truncated->prompt_text(), "Hello Hello Hello");

  // What else would not fit.
  std::string text;
  while (text.size() < 15000) text += "q7Z ";
  request.prompt = TextPrompt{text};
  request.truncate_prompt_tokens.reset();
  EXPECT_EQ(SubmitError(request).code(), StatusCode::kInvalidArgument);
  request.truncate_prompt_tokens = 100;
  EXPECT_TRUE(Submit(request)->WaitForFinish().status.ok());
  request.prompt = TokenPrompt{std::vector<int32_t>(9000, 1)};
  EXPECT_TRUE(Submit(request)->WaitForFinish().status.ok());
  request.truncate_prompt_tokens = 8192;
  EXPECT_EQ(SubmitError(request).code(), StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, PromptsAreCachedUnlessTheServerOrTheRequestSaysNo) {
  Start();
  GenerateRequest request = Request("a", 1, std::vector<int32_t>(200, 7));
  EXPECT_EQ(Submit(request)->WaitForFinish().usage.cached_prompt_tokens, 0);
  EXPECT_EQ(Submit(request)->WaitForFinish().usage.cached_prompt_tokens, 192);
  request.bypass_prefix_cache = true;
  EXPECT_EQ(Submit(request)->WaitForFinish().usage.cached_prompt_tokens, 0);
  options_.scheduler.prefix_cache = false;
  Start();
  request.bypass_prefix_cache = false;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Submit(request)->WaitForFinish().usage.cached_prompt_tokens, 0);
}

TEST_F(EngineTest, DrainLetsRunningRequestsEndAndRefusesNewOnes) {
  Start();
  const auto sink = Submit(Request("a", 50));
  engine_->Drain(absl::InfiniteDuration());
  EXPECT_TRUE(sink->finished());
  EXPECT_TRUE(sink->finish().status.ok());
  EXPECT_EQ(SubmitError(Request("b", 1)).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(engine_->Load().draining);
}

TEST_F(EngineTest, DrainCancelsWhatOutlivesTheGrace) {
  Start();
  GenerateRequest request = Request("a", 1);
  request.stopping.max_tokens.reset();
  const auto sink = Submit(request);
  sink->WaitForDeltas(1);
  engine_->Drain(absl::ZeroDuration());
  EXPECT_TRUE(sink->finished());
}

TEST_F(EngineTest, TheDestructorEndsWhatStillRunsAndWhatIsBeingEncoded) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 10; ++i) {
    GenerateRequest request = Request("t" + std::to_string(i), 1);
    request.stopping.max_tokens.reset();
    sinks.push_back(Submit(request));
    request.request_id = "l" + std::to_string(i);
    request.prompt = TextPrompt{std::string(20000, 'x')};
    sinks.push_back(Submit(request));
  }
  engine_.reset();
  for (const auto& sink : sinks) EXPECT_TRUE(sink->finished());
}

TEST_F(EngineTest, ADeviceFaultEndsRequestsAndLeavesTheEngineUnhealthy) {
  Start();
  runner_->Fail(absl::InternalError("illegal memory access"));
  EXPECT_EQ(Submit(Request("a", 5))->WaitForFinish().status.code(), StatusCode::kInternal);
  EXPECT_FALSE(engine_->Load().healthy);
  EXPECT_EQ(SubmitError(Request("b", 5)).code(), StatusCode::kUnavailable);
  engine_->Drain(absl::InfiniteDuration());
}

TEST_F(EngineTest, AStepThatHangsLeavesTheEngineUnhealthyForGood) {
  options_.max_step_seconds = 600;
  Start();
  runner_->Pause();
  const auto sink = Submit(Request("a", 5));
  while (engine_->Load().healthy) {  // from when the engine's thread has begun the step
    clock_.Advance(absl::Minutes(1));
    std::this_thread::yield();
  }
  const absl::Status refused = SubmitError(Request("b", 5));
  EXPECT_EQ(refused, absl::UnavailableError("the engine hangs: a step did not end within 10m"));
  EXPECT_FALSE(sink->finished());
  runner_->Resume();
  EXPECT_TRUE(sink->WaitForFinish().status.ok());
  EXPECT_EQ(SubmitError(Request("c", 5)), refused) << "for good, as a server's health";
}

TEST_F(EngineTest, AnUnusableBoundOfStepsIsRefused) {
  for (const double seconds : {-1.0, 2e6, std::nan("")}) {
    options_.max_step_seconds = seconds;
    auto runner = std::make_unique<FakeModelRunner>(options_.scheduler.num_pages, kTinyVocabSize);
    const auto engine =
        Engine::Create(options_, TinyModelInfo(), LoadTinyTokenizer(), nullptr, std::move(runner), &observer_, &clock_);
    EXPECT_EQ(engine.status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(engine.status().message().substr(0, 18), "max_step_seconds: ");
  }
}

TEST_F(EngineTest, SurvivesSubmittersAndCancellersOnManyThreads) {
  options_.scheduler.num_pages = 12;  // preemption all the time
  options_.queue.max_waiting_requests = 1000;
  Start();
  std::vector<std::thread> threads;
  std::vector<std::vector<std::shared_ptr<RecordingSink>>> sinks(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t, &sinks] {
      for (int i = 0; i < 40; ++i) {
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        sinks[t].push_back(Submit(Request(id, 60, std::vector<int32_t>(1 + (i * 37) % 300, 5))));
        if (i % 3 == 0) (void)engine_->Cancel(id, CancelReason::kClientGone, {});
        (void)engine_->Load();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& of_thread : sinks) {
    for (const auto& sink : of_thread) {
      const Finish finish = sink->WaitForFinish();
      EXPECT_TRUE(finish.status.ok() || finish.status.code() == StatusCode::kCancelled) << finish.status;
    }
  }
  EXPECT_EQ(engine_->Load().num_free_pages, 12);
  EXPECT_EQ(engine_->Load().num_running, 0);
}

TEST_F(EngineTest, EveryRequestEndsOnceUnderDeadlinesPrioritiesAndFullQueues) {
  options_.scheduler.num_pages = 12;
  options_.queue.max_waiting_requests = 20;
  Start();
  runner_->OnRun([this](const Batch&) { clock_.Advance(absl::Milliseconds(10)); });
  constexpr int kThreads = 4, kRequests = 60;
  std::vector<std::thread> threads;
  std::vector<std::vector<std::shared_ptr<RecordingSink>>> sinks(kThreads);
  std::atomic<int> refused{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRequests; ++i) {
        GenerateRequest request = Request(std::to_string(t) + "-" + std::to_string(i), 10 + i % 40,
                                          std::vector<int32_t>(1 + i * 37 % 300, 5));
        request.caller = std::to_string(t % 3);
        request.priority = i % 5 - 2;
        if (i % 4 != 0) request.timeout = absl::Milliseconds(50 + i * 97 % 3000);
        auto sink = std::make_shared<RecordingSink>();
        const absl::Status status = engine_->Submit(std::move(request), sink);
        if (status.ok()) {
          sinks[t].push_back(std::move(sink));
          continue;
        }
        ++refused;
        EXPECT_TRUE(absl::IsResourceExhausted(status) || absl::IsDeadlineExceeded(status)) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int good = 0;
  for (const auto& of_thread : sinks) {
    for (const auto& sink : of_thread) {
      const Finish finish = sink->WaitForFinish();
      if (finish.status.ok()) {
        ++good;
        continue;
      }
      EXPECT_TRUE(absl::IsDeadlineExceeded(finish.status) || absl::IsResourceExhausted(finish.status)) << finish.status;
    }
  }
  EXPECT_GT(good, 0);
  EXPECT_GT(refused, 0);
  engine_->Drain(absl::InfiniteDuration());
  const EngineLoad load = engine_->Load();
  EXPECT_EQ(load.num_free_pages, 12);
  EXPECT_EQ(load.num_running, 0);
  EXPECT_EQ(load.num_waiting, 0);
  EXPECT_EQ(load.num_waiting_tokens, 0);
}

TEST_F(EngineTest, CreateNamesTheOptionAtFault) {
  options_.scheduler.max_step_tokens = 4;
  auto engine = Engine::Create(options_, TinyModelInfo(), LoadTinyTokenizer(), nullptr,
                               std::make_unique<FakeModelRunner>(64, kTinyVocabSize), nullptr, &clock_);
  EXPECT_EQ(engine.status(), absl::InvalidArgumentError("max_step_tokens: must be at least max_running, 8, got 4"));
}

}  // namespace
}  // namespace spotlight::engine
