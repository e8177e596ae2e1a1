// Steps that overlap: the same answers as one after the other, whatever ends, comes or goes while a step is under way.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

class EngineLoopOverlapTest : public EngineLoopTest {
 protected:
  void StartWith(int32_t steps_in_flight, const ModelInfo& model = TinyModelInfo()) {
    Start(model);
    runner_->SetMaxInFlight(steps_in_flight);
  }
  int32_t NumDiscarded() {
    int32_t num_discarded = 0;
    for (const StepStats& step : observer_.steps()) num_discarded += step.num_discarded_tokens;
    return num_discarded;
  }
};

TEST_F(EngineLoopOverlapTest, APassLaunchesAStepAndEndsTheOneBefore) {
  StartWith(2);
  const auto sink = Submit(Request("a", 3), {1, 2, 3});
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(runner_->num_runs(), 1);
  EXPECT_TRUE(sink->deltas().empty());
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(runner_->num_runs(), 2);
  EXPECT_EQ(sink->deltas().size(), 1u);
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(sink->deltas().size(), 3u);
  EXPECT_FALSE(loop_->RunOnce());
  EXPECT_EQ(runner_->num_runs(), 3) << "the end at max_tokens is known beforehand";
  EXPECT_EQ(NumDiscarded(), 0);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
}

TEST_F(EngineLoopOverlapTest, AStepThatTakesTooLongIsSaidFromThenOn) {
  options_.max_step_seconds = 30;
  for (const int32_t in_flight : {1, 2}) {
    StartWith(in_flight);
    const std::vector<std::pair<int, bool>> waits = {{0, true}, {29, true}, {29, true}, {31, false}, {0, false}};
    size_t next = 0;
    runner_->OnWait([&] {
      const auto [seconds, healthy] = waits.at(next++);
      loop_->load();  // finds this step
      for (int i = 0; i < seconds; ++i) {
        clock_.Advance(absl::Seconds(1));
        loop_->load();
      }
      const EngineLoad load = loop_->load();
      EXPECT_EQ(load.healthy, healthy) << seconds;
      EXPECT_EQ(load.fault, healthy ? "" : "the engine hangs: a step did not end within 30s");
      EXPECT_EQ(loop_->CheckProgress().ok(), healthy);
    });
    const auto sink = Submit(Request("a", static_cast<int32_t>(waits.size())), {1, 2, 3});
    RunUntilIdle();
    EXPECT_EQ(next, waits.size());
    EXPECT_TRUE(sink->finish().status.ok());
    EXPECT_FALSE(loop_->load().healthy) << "for good, as the server has it";
  }
}

TEST_F(EngineLoopOverlapTest, TimeInWhichNobodyLooksIsNoneOfTheStep) {
  options_.max_step_seconds = 30;
  for (const int32_t in_flight : {1, 2}) {
    StartWith(in_flight);
    runner_->OnWait([&] {
      // A process that was stopped: its own watcher stood still as well.
      for (int stop = 0; stop < 5; ++stop) {
        clock_.Advance(absl::Hours(1));
        EXPECT_TRUE(loop_->load().healthy);
      }
    });
    const auto sink = Submit(Request("a", 3), {1, 2, 3});
    RunUntilIdle();
    EXPECT_TRUE(sink->finish().status.ok());
    for (int look = 0; look < 100; ++look) {
      clock_.Advance(absl::Seconds(1));
      EXPECT_TRUE(loop_->load().healthy) << "an idle engine";
    }
  }
}

TEST_F(EngineLoopOverlapTest, AStopFoundLateCostsOneTokenThatNobodySees) {
  StartWith(2);
  runner_->Script(1, {20, 21, kTinyEos, 22});
  GenerateRequest request = Request("a", 50);
  request.stopping.ignore_eos = false;
  const auto sink = Submit(request, {1, 2, 3});
  RunUntilIdle();
  EXPECT_EQ(sink->token_ids(), (std::vector<int32_t>{20, 21, kTinyEos}));
  EXPECT_EQ(sink->finish().reason, FinishReason::kStop);
  EXPECT_EQ(sink->finish().usage.completion_tokens, 3);
  EXPECT_EQ(runner_->num_runs(), 4);
  EXPECT_EQ(NumDiscarded(), 1);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_EQ(sink.use_count(), 1) << "an ended request's sink is let go";
}

TEST_F(EngineLoopOverlapTest, ACancelFreesThePagesWhileAStepIsUnderWay) {
  StartWith(2);
  const auto gone = Submit(Request("gone", 50), PromptIds(100, 1));
  const auto stays = Submit(Request("stays", 20), PromptIds(20, 2));
  for (int i = 0; i < 4; ++i) loop_->RunOnce();
  ASSERT_TRUE(queue_->Cancel("gone", CancelReason::kAborted, clock_.Now()).ok());
  const size_t num_tokens = gone->token_ids().size();
  loop_->RunOnce();
  EXPECT_EQ(gone->finish().reason, FinishReason::kAborted);
  EXPECT_EQ(gone->token_ids().size(), num_tokens);
  RunUntilIdle();
  EXPECT_EQ(stays->token_ids().size(), 20u);
  EXPECT_EQ(NumDiscarded(), 1);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  int releases = 0;
  for (const StepStats& step : observer_.steps()) releases += static_cast<int>(step.cancel_releases.size());
  EXPECT_EQ(releases, 1);
}

TEST_F(EngineLoopOverlapTest, UnusableLogitsEndOneRequestAndNoOther) {
  StartWith(2);
  runner_->ScriptNan(1, 2);
  const auto bad = Submit(Request("bad", 10), {1, 2, 3});
  const auto good = Submit(Request("good", 10), {2, 2, 3});
  RunUntilIdle();
  EXPECT_EQ(bad->finish().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(bad->token_ids().size(), 2u);
  EXPECT_EQ(good->token_ids().size(), 10u);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
}

TEST_F(EngineLoopOverlapTest, AFaultWhileAStepIsUnderWayEndsEveryRequest) {
  StartWith(2);
  const auto sink = Submit(Request("a", 10), {1, 2, 3});
  loop_->RunOnce();
  runner_->Fail(absl::InternalError("illegal memory access"));
  EXPECT_TRUE(loop_->RunOnce());
  EXPECT_EQ(sink->finish().status, absl::InternalError("device fault: illegal memory access"));
  EXPECT_FALSE(loop_->RunOnce());
  EXPECT_EQ(loop_->load().num_free_pages, 64);
}

TEST_F(EngineLoopOverlapTest, StepsThatAreTimedOrMeasuredOverlapLikeOthers) {
  options_.quality.sample_every = 4;
  options_.scheduler.max_step_tokens = 1024;
  StartWith(2, TinyHashedModelInfo());
  runner_->ScriptAttentionMass(1, {0.5f, 0.75f});
  GenerateRequest request = Request("a", 41);
  request.retrieval.mode = RetrievalMode::kSparse;
  const auto sink = Submit(request, PromptIds(380, 1));
  for (int pass = 1; loop_->RunOnce(); ++pass) {
    EXPECT_EQ(runner_->num_runs(), std::min(pass, 41));
    EXPECT_EQ(sink->token_ids().size(), static_cast<size_t>(pass - 1));
  }
  int32_t num_timed = 0, num_measured = 0;
  for (const StepStats& step : observer_.steps()) {
    num_timed += step.retrieval.has_value() ? 1 : 0;
    num_measured += step.quality.has_value() ? 1 : 0;
  }
  EXPECT_EQ(num_timed, 3) << "40 steps retrieve, one in 16 is timed";
  EXPECT_EQ(num_measured, 9) << "the tenth one's step was the last, and no result came after it";
  EXPECT_EQ(sink->finish().retrieval.quality.num_samples, 9);
  EXPECT_EQ(sink->finish().retrieval.quality.min_attention_mass, 0.5f);
}

TEST_F(EngineLoopOverlapTest, AStopWhileItsRowIsMeasuredCostsNoSample) {
  options_.quality.sample_every = 4;
  options_.scheduler.max_step_tokens = 1024;
  StartWith(2, TinyHashedModelInfo());
  runner_->Script(1, {20, 21, 22, kTinyEos, 24});  // found when the fifth step, the fourth that retrieves, is launched
  std::vector<int32_t> measured_runs;
  runner_->OnRun([&](const Batch& batch) {
    if (batch.quality.has_value()) measured_runs.push_back(static_cast<int32_t>(runner_->num_runs()));
  });
  GenerateRequest request = Request("stops", 50);
  request.stopping.ignore_eos = false;
  request.retrieval.mode = RetrievalMode::kSparse;
  const auto stops = Submit(request, PromptIds(380, 1));
  request = Request("stays", 12);
  request.retrieval.mode = RetrievalMode::kSparse;
  const auto stays = Submit(request, PromptIds(380, 2));
  RunUntilIdle();
  EXPECT_EQ(stops->token_ids().size(), 4u);
  EXPECT_EQ(stops->finish().retrieval.quality.num_samples, 0);
  EXPECT_EQ(stays->finish().retrieval.quality.num_samples, 2);
  EXPECT_EQ(measured_runs, (std::vector<int32_t>{5, 8, 9})) << "the eighth in place of the fifth";
}

TEST_F(EngineLoopOverlapTest, TokensAreHandedOutBeforeALaunchThatPreparesSomething) {
  StartWith(2);
  runner_->PrepareBatchesOf(1);
  const auto sink = Submit(Request("a", 5), {1, 2, 3});
  std::vector<size_t> tokens_at_launch;
  runner_->OnRun([&](const Batch&) { tokens_at_launch.push_back(sink->token_ids().size()); });
  RunUntilIdle();
  EXPECT_EQ(tokens_at_launch, (std::vector<size_t>{0, 1, 1, 2, 3}));
  EXPECT_EQ(sink->token_ids().size(), 5u);
}

TEST_F(EngineLoopOverlapTest, TheStepThatCapturedAGraphSaysHowThatWent) {
  StartWith(2);
  runner_->PrepareBatchesOf(1, absl::ResourceExhaustedError("no memory"));
  const auto sink = Submit(Request("a", 5), {1, 2, 3});
  RunUntilIdle();
  const std::vector<StepStats> steps = observer_.steps();
  ASSERT_GE(steps.size(), 3u);
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i].graph_capture.has_value(), i == 1) << i;
  EXPECT_EQ(steps[1].graph_capture->message(), "no memory");
}

// Everything at once, in a cache that is too small for it.
struct Answers {
  std::vector<std::vector<int32_t>> token_ids;
  std::vector<std::string> texts;
  std::vector<FinishReason> reasons;
  std::vector<size_t> num_prompt_logprobs;
};

TEST_F(EngineLoopOverlapTest, RandomRequestsGetTheAnswersOfStepsOneAfterTheOther) {
  for (const bool hashed : {false, true}) {
    for (uint32_t seed = 0; seed < 6; ++seed) {
      std::map<int32_t, Answers> answers;
      for (const int32_t steps_in_flight : {1, 2}) {
        std::mt19937 random(seed);
        options_.scheduler.num_pages = 24;
        options_.scheduler.max_running = 6;
        options_.scheduler.max_step_tokens = 96;
        options_.retrieval.sparse_min_context = 200;
        options_.quality.sample_every = 8;
        StartWith(steps_in_flight, hashed ? TinyHashedModelInfo() : TinyModelInfo());
        std::vector<std::shared_ptr<RecordingSink>> sinks;
        for (int i = 0; i < 24; ++i) {
          GenerateRequest request = Request("r" + std::to_string(i), 1 + static_cast<int32_t>(random() % 90));
          if (random() % 2 == 0) {
            request.sampling.temperature = 0.9f;
            request.sampling.top_p = 0.9f;
            request.sampling.repetition_penalty = 1.2f;
            request.sampling.frequency_penalty = 0.3f;
          }
          request.sampling.seed = random();
          request.sampling.n = random() % 4 == 0 ? 2 : 1;
          if (random() % 3 == 0) request.stopping.stop = {"a", "the"};
          if (random() % 3 == 0) {
            for (int32_t id = 0; id < 40; ++id) request.stopping.stop_token_ids.push_back(id);
            request.stopping.min_tokens = static_cast<int32_t>(random() % 5);
          }
          if (random() % 3 == 0) request.logprobs = 2;
          if (random() % 4 == 0) request.prompt_logprobs = 1;
          sinks.push_back(Submit(request, PromptIds(10 + static_cast<int32_t>(random() % 250), 1 + i)));
          for (uint32_t pass = random() % 12; pass > 0; --pass) loop_->RunOnce();
        }
        RunUntilIdle();
        Answers& all = answers[steps_in_flight];
        for (const auto& sink : sinks) {
          EXPECT_TRUE(sink->finish().status.ok()) << sink->finish().status;
          for (int32_t index = 0; index < 2; ++index) all.token_ids.push_back(sink->token_ids(index));
          if (sink->token_ids(1).empty()) all.texts.push_back(sink->text());  // samples' texts come in any order
          all.reasons.push_back(sink->finish().reason);
          all.num_prompt_logprobs.push_back(sink->prompt_logprobs().size());
        }
        EXPECT_EQ(loop_->load().num_free_pages, 24);
        EXPECT_EQ(loop_->load().num_running, 0);
        EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
      }
      EXPECT_EQ(answers[2].token_ids, answers[1].token_ids);
      EXPECT_EQ(answers[2].texts, answers[1].texts);
      EXPECT_EQ(answers[2].num_prompt_logprobs, answers[1].num_prompt_logprobs);
    }
  }
}

}  // namespace
}  // namespace spotlight::engine
