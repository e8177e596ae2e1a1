#include "engine/engine_loop.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

TEST_F(EngineLoopTest, AnIdlePassDoesNothing) {
  Start();
  EXPECT_FALSE(loop_->RunOnce());
  EXPECT_EQ(runner_->num_runs(), 0);
}

TEST_F(EngineLoopTest, StreamsAScriptTokenByToken) {
  Start();
  const std::vector<int32_t> script = TinyIds(*tokenizer_, "The cat sat on the mat.");
  runner_->Script(1, script);
  const auto sink = Submit(Request("a", static_cast<int32_t>(script.size())), {1, 2, 3});
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(sink->prompt_tokens(), 3);
  EXPECT_EQ(sink->deltas().size(), 1u);
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(sink->deltas().size(), 2u);
  RunUntilIdle();
  EXPECT_EQ(sink->text(), "The cat sat on the mat.");
  EXPECT_EQ(sink->token_ids(), script);
  EXPECT_EQ(sink->finish().reason, FinishReason::kLength);
  EXPECT_TRUE(sink->finish().status.ok());
  EXPECT_EQ(sink->finish().usage.prompt_tokens, 3);
  EXPECT_EQ(sink->finish().usage.completion_tokens, static_cast<int32_t>(script.size()));
  EXPECT_EQ(sink->finish().seed, 17u);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineLoopTest, CancelFreesPagesBeforeTheNextStepIsPlanned) {
  Start();
  const auto gone = Submit(Request("gone", 100), PromptIds(300, 1));
  const auto other = Submit(Request("other", 100), PromptIds(10, 2));
  for (int i = 0; i < 5; ++i) loop_->RunOnce();
  ASSERT_GT(gone->deltas().size(), 0u);
  ASSERT_EQ(loop_->load().num_free_pages, 64 - 5 - 1);
  const int64_t runs = runner_->num_runs();
  int32_t rows_after_cancel = 0;
  runner_->OnRun([&](const Batch& batch) { rows_after_cancel = batch.num_rows; });
  ASSERT_TRUE(queue_->Cancel("gone", CancelReason::kClientGone, clock_.Now()).ok());
  clock_.Advance(absl::Milliseconds(2));
  loop_->RunOnce();
  EXPECT_EQ(loop_->load().num_free_pages, 64 - 1);
  EXPECT_EQ(runner_->num_runs(), runs + 1);
  EXPECT_EQ(rows_after_cancel, 1);
  EXPECT_EQ(gone->finish().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(gone->finish().reason, FinishReason::kCancelled);
  EXPECT_FALSE(other->finished());
  ASSERT_EQ(observer_.steps().back().cancel_releases.size(), 1u);
  EXPECT_NEAR(observer_.steps().back().cancel_releases[0].seconds, 0.002, 1e-9);
}

TEST_F(EngineLoopTest, TwoCallersMayUseOneIdAndNeitherEndsTheOthersRequest) {
  Start();
  GenerateRequest request = Request("a", 20);
  request.caller = "one";
  const auto ones = Submit(request, {1, 2, 3});
  request.caller = "two";
  const auto twos = Submit(request, {4, 5, 6});
  for (int i = 0; i < 5; ++i) loop_->RunOnce();
  ASSERT_EQ(loop_->load().num_running, 2);
  ASSERT_TRUE(queue_->Cancel("a", CancelReason::kClientGone, clock_.Now(), {ones.get()}).ok());
  RunUntilIdle();
  EXPECT_EQ(ones->finish().reason, FinishReason::kCancelled);
  EXPECT_EQ(twos->finish().usage.completion_tokens, 20);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineLoopTest, ATokenMadeAfterTheClientLeftCountsAsWasted) {
  Start();
  Submit(Request("a", 100), {1, 2, 3});
  runner_->OnRun([&](const Batch&) {
    clock_.Advance(absl::Milliseconds(1));
    if (runner_->num_runs() == 3) {
      ASSERT_TRUE(queue_->Cancel("a", CancelReason::kClientGone, clock_.Now()).ok());
      clock_.Advance(absl::Milliseconds(1));
    }
  });
  RunUntilIdle();
  ASSERT_EQ(observer_.requests().size(), 1u);
  EXPECT_EQ(observer_.requests()[0].wasted_tokens, 1);
  EXPECT_EQ(observer_.requests()[0].phase, RequestPhase::kDecode);
  EXPECT_EQ(observer_.requests()[0].finish.usage.completion_tokens, 3);
}

TEST_F(EngineLoopTest, ReasonsOfCancellationGiveTheirOwnStatus) {
  Start();
  const std::map<CancelReason, std::pair<StatusCode, FinishReason>> expected = {
      {CancelReason::kClientGone, {StatusCode::kCancelled, FinishReason::kCancelled}},
      {CancelReason::kAborted, {StatusCode::kCancelled, FinishReason::kAborted}},
      {CancelReason::kDeadline, {StatusCode::kDeadlineExceeded, FinishReason::kDeadline}},
      {CancelReason::kShutdown, {StatusCode::kUnavailable, FinishReason::kAborted}}};
  for (const auto& [reason, outcome] : expected) {
    const auto sink = Submit(Request("a", 100), {1, 2});
    loop_->RunOnce();
    ASSERT_TRUE(queue_->Cancel("a", reason, clock_.Now()).ok());
    loop_->RunOnce();
    EXPECT_EQ(sink->finish().status.code(), outcome.first);
    EXPECT_EQ(sink->finish().reason, outcome.second);
  }
}

TEST_F(EngineLoopTest, ARequestCancelledInTheQueueNeverRuns) {
  Start();
  const auto sink = Submit(Request("a", 100), {1, 2});
  ASSERT_TRUE(queue_->Cancel("a", CancelReason::kDeadline, clock_.Now()).ok());
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(sink->finish().status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sink->prompt_tokens(), -1);
  EXPECT_EQ(runner_->num_runs(), 0);
  EXPECT_EQ(observer_.requests().at(0).phase, RequestPhase::kQueued);
}

TEST_F(EngineLoopTest, PreemptionGivesTheSameTokensAndSendsNothingTwice) {
  // Alone, with room.
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 4; ++i) {
    Start();
    const auto sink = Submit(Request("a", 120), PromptIds(60 + i, 1 + i));
    RunUntilIdle();
    alone.push_back(sink->token_ids());
    ASSERT_EQ(alone.back().size(), 120u);
  }
  // Together, in a cache for two and a half of them.
  options_.scheduler.num_pages = 7;
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(Submit(Request(std::to_string(i), 120), PromptIds(60 + i, 1 + i)));
  RunUntilIdle();
  int preempted = 0;
  for (const StepStats& step : observer_.steps()) preempted += step.num_preempted;
  EXPECT_GT(preempted, 0);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sinks[i]->token_ids(), alone[i]) << i;
  EXPECT_EQ(loop_->load().num_free_pages, 7);
}

TEST_F(EngineLoopTest, SampledTokensDoNotDependOnTheRestOfTheBatch) {
  const auto warm = [](const std::string& id) {
    GenerateRequest request = Request(id, 40);
    request.sampling.temperature = 0.9f;
    request.sampling.top_p = 0.95f;
    request.sampling.repetition_penalty = 1.1f;
    return request;
  };
  Start();
  const auto alone = Submit(warm("a"), PromptIds(100, 3));
  RunUntilIdle();
  Start();
  for (int i = 0; i < 5; ++i) Submit(warm("x" + std::to_string(i)), PromptIds(150 + i, 50 + i));
  loop_->RunOnce();
  const auto together = Submit(warm("a"), PromptIds(100, 3));
  GenerateRequest other_seed = warm("b");
  other_seed.sampling.seed = 18;
  const auto other = Submit(other_seed, PromptIds(100, 3));
  RunUntilIdle();
  EXPECT_EQ(together->token_ids(), alone->token_ids());
  EXPECT_NE(other->token_ids(), alone->token_ids());
}

TEST_F(EngineLoopTest, ALongPromptDoesNotStallRunningStreams) {
  Start();
  const auto stream = Submit(Request("stream", 1000), {1, 2, 3});
  loop_->RunOnce();
  Submit(Request("long", 1), PromptIds(2000, 2));
  for (int i = 0; i < 10; ++i) {
    const size_t before = stream->deltas().size();
    loop_->RunOnce();
    EXPECT_EQ(stream->deltas().size(), before + 1);
  }
  EXPECT_EQ(runner_->max_step_tokens(), 128);
}

TEST_F(EngineLoopTest, EndsAtTheContextsEndWithLength) {
  ModelInfo model = TinyModelInfo();
  model.max_context_tokens = 20;
  Start(model);
  GenerateRequest request = Request("a", 1000);
  const auto capped = Submit(request, PromptIds(15, 1));
  request.request_id = "b";
  request.stopping.max_tokens.reset();
  const auto unbounded = Submit(request, PromptIds(15, 2));
  RunUntilIdle();
  for (const auto& sink : {capped, unbounded}) {
    EXPECT_EQ(sink->finish().usage.completion_tokens, 5);
    EXPECT_EQ(sink->finish().reason, FinishReason::kLength);
  }
}

TEST_F(EngineLoopTest, EndsAtTheCachesEndWithLength) {
  options_.scheduler.num_pages = 2;
  Start();
  GenerateRequest request = Request("a", 1000);
  const auto sink = Submit(request, PromptIds(100, 1));
  RunUntilIdle();
  EXPECT_EQ(sink->finish().usage.completion_tokens, 28);
  EXPECT_EQ(sink->finish().reason, FinishReason::kLength);
}

TEST_F(EngineLoopTest, MinTokensKeepsTheModelFromStopping) {
  Start();
  runner_->Script(1, {kTinyEos});
  GenerateRequest request = Request("a", 50);
  request.stopping.ignore_eos = false;
  const auto at_once = Submit(request, {1, 2});
  request.request_id = "b";
  request.stopping.min_tokens = 5;
  const auto later = Submit(request, {1, 2});
  RunUntilIdle();
  EXPECT_EQ(at_once->token_ids(), std::vector<int32_t>{kTinyEos});
  EXPECT_EQ(at_once->finish().matched_stop_token, kTinyEos);
  ASSERT_EQ(later->token_ids().size(), 6u);
  EXPECT_EQ(later->token_ids()[5], kTinyEos);
  for (int i = 0; i < 5; ++i) EXPECT_NE(later->token_ids()[i], kTinyEos);
}

TEST_F(EngineLoopTest, NanLogitsEndOneRequestAndNoOther) {
  Start();
  runner_->ScriptNan(1, 2);
  const auto bad = Submit(Request("bad", 10), {1, 2, 3});
  const auto good = Submit(Request("good", 10), {2, 2, 3});
  RunUntilIdle();
  EXPECT_EQ(bad->finish().status.code(), StatusCode::kInternal);
  EXPECT_EQ(bad->finish().reason, FinishReason::kError);
  EXPECT_EQ(bad->token_ids().size(), 2u);
  EXPECT_TRUE(good->finish().status.ok());
  EXPECT_EQ(good->token_ids().size(), 10u);
  EXPECT_TRUE(loop_->load().healthy);
}

TEST_F(EngineLoopTest, ADeviceFaultEndsEveryRequestAndThoseToCome) {
  options_.scheduler.max_running = 1;
  Start();
  const auto running = Submit(Request("running", 10), {1, 2, 3});
  const auto waiting = Submit(Request("waiting", 10), {2, 2, 3});
  loop_->RunOnce();
  ASSERT_TRUE(queue_->Reserve(Reservation({"encoding", ""})).ok());
  runner_->Fail(absl::InternalError("illegal memory access"));
  EXPECT_TRUE(loop_->RunOnce());
  for (const auto& sink : {running, waiting}) {
    EXPECT_EQ(sink->finish().status, absl::InternalError("device fault: illegal memory access"));
  }
  EXPECT_FALSE(loop_->load().healthy);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  EXPECT_EQ(queue_->Reserve(Reservation({"new", ""})).code(), StatusCode::kUnavailable);

  auto late = std::make_unique<Submission>();
  const auto late_sink = std::make_shared<RecordingSink>();
  late->request = Request("encoding", 10);
  late->prompt_token_ids = {1};
  late->sink = late_sink;
  queue_->Push(std::move(late));
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(late_sink->finish().status.code(), StatusCode::kInternal);
  EXPECT_FALSE(loop_->RunOnce());
}

TEST_F(EngineLoopTest, TimingsComeFromTheClock) {
  Start();
  runner_->OnRun([&](const Batch&) { clock_.Advance(absl::Milliseconds(10)); });
  const auto sink = Submit(Request("a", 5), PromptIds(200, 1));  // two chunks
  clock_.Advance(absl::Milliseconds(7));
  RunUntilIdle();
  const Timings timings = sink->finish().timings;
  EXPECT_NEAR(timings.queue, 0.007, 1e-9);
  EXPECT_NEAR(timings.prefill, 0.020, 1e-9);
  EXPECT_NEAR(timings.time_to_first_token, 0.027, 1e-9);
  EXPECT_NEAR(timings.decode, 0.040, 1e-9);
  EXPECT_NEAR(timings.mean_inter_token, 0.010, 1e-9);
  EXPECT_NEAR(observer_.requests().at(0).end_to_end_seconds, 0.067, 1e-9);
}

TEST_F(EngineLoopTest, ReportsEachStep) {
  Start();
  Submit(Request("a", 3), PromptIds(150, 1));
  RunUntilIdle();
  const std::vector<StepStats> steps = observer_.steps();
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps[0].num_prefill_tokens, 128);
  EXPECT_EQ(steps[0].num_generated_tokens, 0);
  EXPECT_EQ(steps[1].num_prefill_tokens, 22);
  EXPECT_EQ(steps[1].num_generated_tokens, 1);
  EXPECT_TRUE(steps[1].inter_token_seconds.empty());
  EXPECT_EQ(steps[2].num_decode_rows, 1);
  EXPECT_EQ(steps[2].context_tokens, std::vector<int32_t>{151});
  EXPECT_EQ(steps[2].dense_rows, std::vector<DenseReason>{DenseReason::kNoHash});
  EXPECT_EQ(steps[2].kv_read_bytes, int64_t{151} * 4 * 2 * 64 * 4);
  EXPECT_EQ(steps[3].inter_token_seconds.size(), 1u);
}

TEST_F(EngineLoopTest, CountsWhatRetrievalReadsAndSamplesItsTimings) {
  options_.retrieval.sparse_min_context = 400;
  Start(TinyHashedModelInfo());
  const auto sink = Submit(Request("a", 41), PromptIds(380, 1));
  RunUntilIdle();
  const RetrievalStats stats = sink->finish().retrieval;
  EXPECT_EQ(stats.dense_steps, 19);  // contexts 381 to 399
  EXPECT_EQ(stats.sparse_steps, 21);
  EXPECT_EQ(stats.dense_reason, DenseReason::kShortContext);
  EXPECT_LT(stats.kv_read_bytes, stats.kv_dense_equivalent_bytes);
  EXPECT_NEAR(stats.selected_ratio, (64 + 68) / 410.0, 0.001);
  int timed = 0;
  for (const StepStats& step : observer_.steps()) {
    timed += step.retrieval.has_value();
    if (!step.sparse_rows.empty()) {
      EXPECT_EQ(step.sparse_rows[0].candidate_tokens, step.sparse_rows[0].context_tokens - 68);
      EXPECT_EQ(step.sparse_rows[0].selected_tokens, 64);
    }
  }
  EXPECT_EQ(timed, 2);  // 1 in 16 of 21
}

TEST_F(EngineLoopTest, ACancelEndsAllSamplesAndFreesTheirPages) {
  options_.scheduler.max_running = 2;
  Start();
  GenerateRequest request = Request("a", 50);
  request.sampling.n = 4;  // two of them wait
  const auto sink = Submit(request, PromptIds(150, 1));
  for (int i = 0; i < 6; ++i) loop_->RunOnce();
  EXPECT_EQ(loop_->load().num_running, 2);
  EXPECT_EQ(loop_->load().num_waiting, 2) << "what of a running request has no place waits for one";
  ASSERT_TRUE(queue_->Cancel("a", CancelReason::kAborted, clock_.Now()).ok());
  loop_->RunOnce();
  EXPECT_EQ(sink->finish().reason, FinishReason::kAborted);
  EXPECT_EQ(sink->sample_finishes().size(), 4u);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  EXPECT_EQ(loop_->load().num_running, 0);
  ASSERT_EQ(observer_.requests().size(), 1u) << "a request is counted once";
  const int64_t num_tokens = sink->token_ids(0).size() + sink->token_ids(1).size();
  EXPECT_EQ(observer_.requests()[0].finish.usage.completion_tokens, num_tokens);
  EXPECT_EQ(observer_.steps().back().cancel_releases.size(), 1u);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_TRUE(queue_->Reserve(Reservation({"a", ""})).ok());
}

TEST_F(EngineLoopTest, SamplesEndOneByOneAndTheRequestWithTheLast) {
  Start();
  runner_->OnRun([&](const Batch&) { clock_.Advance(absl::Milliseconds(10)); });
  GenerateRequest request = Request("a", 30);
  request.sampling.n = 3;
  request.sampling.temperature = 1.0f;
  request.stopping.stop_token_ids = {};
  for (int32_t id = 0; id < 64; ++id) request.stopping.stop_token_ids.push_back(id);  // one token in eight
  const auto sink = Submit(request, PromptIds(100, 1));
  RunUntilIdle();
  const std::vector<Finish> finishes = sink->sample_finishes();
  ASSERT_EQ(finishes.size(), 3u);
  int32_t num_tokens = 0;
  for (const Finish& finish : finishes) {
    EXPECT_TRUE(finish.status.ok());
    const std::vector<int32_t> ids = sink->token_ids(finish.index);
    num_tokens += static_cast<int32_t>(ids.size());
    EXPECT_EQ(finish.reason, ids.back() < 64 ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_GT(finish.timings.time_to_first_token, 0);
  }
  EXPECT_EQ(sink->finish().usage.completion_tokens, num_tokens);
  EXPECT_EQ(sink->finish().usage.prompt_tokens, 100);
  ASSERT_EQ(observer_.requests().size(), 1u);
  EXPECT_NEAR(observer_.requests()[0].finish.timings.time_to_first_token, 0.01, 1e-9) << "of the first sample";
  EXPECT_EQ(observer_.requests()[0].finish.usage.completion_tokens, num_tokens);
}

TEST_F(EngineLoopTest, ASampleThatFailsEndsItsRequestAndNoOther) {
  Start();
  runner_->ScriptNan(1, 3);
  GenerateRequest request = Request("bad", 30);
  request.sampling.n = 3;
  const auto bad = Submit(request, PromptIds(100, 1));
  const auto good = Submit(Request("good", 30), PromptIds(100, 2));
  RunUntilIdle();
  EXPECT_EQ(bad->finish().status.code(), StatusCode::kInternal);
  EXPECT_EQ(bad->sample_finishes().size(), 3u);
  EXPECT_TRUE(good->finish().status.ok());
  EXPECT_EQ(observer_.requests().size(), 2u);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
}

TEST_F(EngineLoopTest, AHitIsReportedInUsageAndSteps) {
  Start();
  const auto submit = [&](const std::string& id) {
    const std::vector<int32_t> prompt = PromptIds(300, 1);
    auto submission = std::make_unique<Submission>();
    const auto sink = std::make_shared<RecordingSink>();
    EXPECT_TRUE(queue_->Reserve(Reservation({id, ""})).ok());
    submission->request = Request(id, 5);
    submission->page_hashes = PageHashes("", prompt);
    submission->prompt_token_ids = prompt;
    submission->sink = sink;
    queue_->Push(std::move(submission));
    RunUntilIdle();
    return sink;
  };
  const auto cold = submit("cold");
  const auto hit = submit("hit");
  EXPECT_EQ(cold->finish().usage.cached_prompt_tokens, 0);
  EXPECT_EQ(hit->finish().usage.cached_prompt_tokens, 256);
  EXPECT_EQ(hit->token_ids(), cold->token_ids());
  int num_queried = 0, num_hit = 0;
  for (const StepStats& step : observer_.steps()) {
    num_queried += step.num_prefix_query_tokens;
    num_hit += step.num_prefix_hit_tokens;
  }
  EXPECT_EQ(num_queried, 600);
  EXPECT_EQ(num_hit, 256);
  EXPECT_EQ(loop_->load().num_free_pages, 64) << "pages that only the cache holds are free";
}

TEST_F(EngineLoopTest, PromptLogProbabilitiesComeOnceInOrderThoughTheRequestIsPreempted) {
  options_.scheduler.num_pages = 7;
  options_.scheduler.max_running = options_.scheduler.max_step_tokens = 3;
  Start();
  const auto old = Submit(Request("old", 250), PromptIds(10, 1));
  for (int i = 0; i < 180; ++i) loop_->RunOnce();
  GenerateRequest request = Request("scored", 20);
  request.prompt_logprobs = 2;
  const std::vector<int32_t> prompt = PromptIds(150, 2);  // two tokens a step, until the old one wants a fifth page
  const auto scored = Submit(request, prompt);
  int num_preempted = 0;
  RunUntilIdle();
  for (const StepStats& step : observer_.steps()) num_preempted += step.num_preempted;
  EXPECT_GT(num_preempted, 0);
  const std::vector<TokenLogprob> logprobs = scored->prompt_logprobs();
  ASSERT_EQ(logprobs.size(), 149u);
  for (size_t i = 0; i < logprobs.size(); ++i) {
    EXPECT_EQ(logprobs[i].token_id, prompt[i + 1]);
    EXPECT_EQ(logprobs[i].top.size(), 2u);
    EXPECT_LE(logprobs[i].logprob, logprobs[i].top[0].second);
  }
  EXPECT_TRUE(scored->finish().status.ok());
  EXPECT_TRUE(old->finish().status.ok());
}

TEST_F(EngineLoopTest, UnusableLogitsOfAPromptEndTheRequest) {
  Start();
  runner_->ScriptNan(1, -1);
  GenerateRequest request = Request("bad", 5);
  request.prompt_logprobs = 0;
  const auto bad = Submit(request, PromptIds(300, 1));
  const auto good = Submit(Request("good", 5), PromptIds(100, 2));
  RunUntilIdle();
  EXPECT_EQ(bad->finish().status.code(), StatusCode::kInternal);
  EXPECT_TRUE(bad->token_ids().empty());
  EXPECT_TRUE(good->finish().status.ok());
}

TEST_F(EngineLoopTest, NoPromptFindsPagesOfOneWhoseLogitsWereUnusable) {
  Start();
  const std::vector<int32_t> prompt = PromptIds(300, 1);
  const auto run = [&](const std::string& id, absl::optional<int32_t> prompt_logprobs) {
    GenerateRequest request = Request(id, 5);
    request.prompt_logprobs = prompt_logprobs;
    const auto sink = Submit(request, prompt, PageHashes("", prompt));
    RunUntilIdle();
    return sink->finish();
  };
  runner_->ScriptNan(1, -1);
  EXPECT_EQ(run("bad", 0).status.code(), StatusCode::kInternal);
  runner_->ScriptNan(1, 1000);
  EXPECT_EQ(run("cold", absl::nullopt).usage.cached_prompt_tokens, 0);
  EXPECT_EQ(run("hit", absl::nullopt).usage.cached_prompt_tokens, 256);
}

TEST_F(EngineLoopTest, AnEchoComesWholeInPiecesOfWholeCharacters) {
  Start();
  auto submission = std::make_unique<Submission>();
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(queue_->Reserve(Reservation({"a", ""})).ok());
  submission->request = Request("a", 1);
  submission->request.echo = true;
  std::string text = "x";
  while (text.size() < 200000) text += "\xE4\xBD\xA0";
  submission->prompt_text = text;
  submission->prompt_token_ids = PromptIds(300, 1);
  submission->sink = sink;
  queue_->Push(std::move(submission));
  RunUntilIdle();
  std::string echoed;
  std::vector<int32_t> ids;
  for (const Delta& delta : sink->deltas()) {
    EXPECT_LE(delta.prompt_text.size(), size_t{64} << 10);
    EXPECT_TRUE(delta.prompt_text.empty() || (delta.prompt_text.size() - (echoed.empty() ? 1 : 0)) % 3 == 0);
    echoed += delta.prompt_text;
    ids.insert(ids.end(), delta.prompt_token_ids.begin(), delta.prompt_token_ids.end());
  }
  EXPECT_EQ(echoed, text);
  EXPECT_EQ(ids, PromptIds(300, 1));
}

TEST_F(EngineLoopTest, WaitingRequestsAreCountedUntilTheyAreScheduled) {
  options_.scheduler.max_running = 1;
  Start();
  Submit(Request("a", 2), {1, 2, 3});
  Submit(Request("b", 2), {1, 2, 3});
  EXPECT_EQ(queue_->num_waiting(), 2);
  loop_->RunOnce();
  EXPECT_EQ(queue_->num_waiting(), 1);
  EXPECT_EQ(queue_->num_waiting_tokens(), 3);
  EXPECT_EQ(loop_->load().num_running, 1);
  EXPECT_EQ(loop_->load().num_waiting, 0) << "the queue counts it";
  RunUntilIdle();
  EXPECT_EQ(queue_->num_waiting(), 0);
}

TEST_F(EngineLoopTest, SamplesCountAsWaitingFromTheStartOfTheirRequestUntilTheirOwn) {
  options_.scheduler.max_running = 2;
  Start();
  GenerateRequest request = Request("a", 5);
  request.sampling.n = 4;
  Submit(Request("first", 3), {4, 5, 6});
  Submit(Request("second", 3), {4, 5, 6});
  Submit(request, {1, 2, 3});
  loop_->RunOnce();
  EXPECT_EQ(queue_->num_waiting() + loop_->load().num_waiting, 1) << "a request that has not started is one";
  while (queue_->num_waiting() > 0) ASSERT_TRUE(loop_->RunOnce());
  while (loop_->load().num_running < 2) ASSERT_TRUE(loop_->RunOnce());
  EXPECT_EQ(loop_->load().num_waiting, 2);
  RunUntilIdle();
  EXPECT_EQ(loop_->load().num_waiting, 0);
  EXPECT_EQ(loop_->load().num_running, 0);
}

}  // namespace
}  // namespace spotlight::engine
