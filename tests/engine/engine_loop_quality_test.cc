// Sampled quality and the guardrail in the loop: what a fake model measures, and what the loop makes of it.
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

using EngineLoopQualityTest = EngineLoopTest;

// Sparse from its first decode step on.
GenerateRequest Sparse(GenerateRequest request) {
  request.retrieval.mode = RetrievalMode::kSparse;
  return request;
}

TEST_F(EngineLoopQualityTest, MeasuresOneSparseStepInManyAndReportsWhatItFound) {
  options_.quality.sample_every = 8;
  Start(TinyHashedModelInfo());
  runner_->ScriptAttentionMass(1, {0.5f, 1.0f, 0.75f});
  const auto sink = Submit(Sparse(Request("a", 25)), PromptIds(380, 1));
  RunUntilIdle();
  const RetrievalStats stats = sink->finish().retrieval;
  EXPECT_EQ(stats.sparse_steps, 24);
  EXPECT_EQ(stats.quality.num_samples, 3);
  EXPECT_DOUBLE_EQ(stats.quality.attention_mass, 0.75);
  EXPECT_DOUBLE_EQ(stats.quality.min_attention_mass, 0.5);
  EXPECT_DOUBLE_EQ(stats.quality.recall, 0.5);
  EXPECT_DOUBLE_EQ(stats.quality.iou, 0.25);
  EXPECT_DOUBLE_EQ(stats.quality.output_error, 0.125);
  EXPECT_EQ(stats.fallback.count, 0);  // no floor
  std::vector<int32_t> layers;
  for (const StepStats& step : observer_.steps()) {
    if (!step.quality.has_value()) continue;
    EXPECT_EQ(step.quality->outcome, QualityOutcome::kGood);
    layers.push_back(step.quality->layer);
  }
  EXPECT_EQ(layers, (std::vector<int32_t>{2, 3, 2}));
}

TEST_F(EngineLoopQualityTest, DenseRequestsAreNotMeasured) {
  options_.quality.sample_every = 1;
  Start(TinyHashedModelInfo());
  const auto sink = Submit(Request("a", 10), PromptIds(380, 1));  // AUTO, and short
  RunUntilIdle();
  EXPECT_EQ(sink->finish().retrieval.quality.num_samples, 0);
  for (const StepStats& step : observer_.steps()) EXPECT_FALSE(step.quality.has_value());
}

TEST_F(EngineLoopQualityTest, ARequestWhoseAttentionMassStaysLowEndsDenseAndSaysSo) {
  options_.quality.sample_every = 4;
  options_.quality.floor = 0.9;
  options_.quality.low_samples = 2;
  Start(TinyHashedModelInfo());
  runner_->ScriptAttentionMass(1, {0.5f, 0.95f, 0.6f, 0.7f, 1.0f});
  const auto low = Submit(Sparse(Request("low", 41)), PromptIds(380, 1));
  RunUntilIdle();
  // Low samples in steps 4, 12 and 16; step 8 was good. The prompt gave the first token.
  const RetrievalStats stats = low->finish().retrieval;
  EXPECT_EQ(stats.sparse_steps, 16);
  EXPECT_EQ(stats.dense_steps, 24);
  EXPECT_EQ(stats.dense_reason, DenseReason::kGuardrail);
  EXPECT_EQ(stats.quality.num_samples, 4);
  EXPECT_EQ(stats.fallback.count, 1);
  EXPECT_TRUE(stats.fallback.dense);
  EXPECT_EQ(stats.fallback.after_tokens, 17);
  int fallbacks = 0, guarded_rows = 0;
  for (const StepStats& step : observer_.steps()) {
    fallbacks += step.quality.has_value() && step.quality->fallback == QualityFallback::kDense;
    for (const DenseReason reason : step.dense_rows) guarded_rows += reason == DenseReason::kGuardrail;
  }
  EXPECT_EQ(fallbacks, 1);
  EXPECT_EQ(guarded_rows, 24);
}

TEST_F(EngineLoopQualityTest, TheGuardrailLeavesOtherRequestsAlone) {
  options_.quality.sample_every = 1;
  options_.quality.floor = 0.9;
  Start(TinyHashedModelInfo());
  runner_->ScriptAttentionMass(1, {0.1f});
  const auto low = Submit(Sparse(Request("low", 41)), PromptIds(380, 1));
  const auto good = Submit(Sparse(Request("good", 41)), PromptIds(380, 2));
  RunUntilIdle();
  EXPECT_EQ(low->finish().retrieval.quality.num_samples, 3);
  EXPECT_EQ(low->finish().retrieval.dense_reason, DenseReason::kGuardrail);
  EXPECT_EQ(good->finish().retrieval.sparse_steps, 40);
  EXPECT_EQ(good->finish().retrieval.fallback.count, 0);
  EXPECT_GT(good->finish().retrieval.quality.num_samples, 30);
}

TEST_F(EngineLoopQualityTest, LargerBudgetsComeBeforeDenseWhereTheServerSaysSo) {
  options_.quality.sample_every = 1;
  options_.quality.floor = 0.9;
  options_.quality.low_samples = 1;
  options_.quality.fallback = QualityFallback::kBudget;
  Start(TinyHashedModelInfo());
  runner_->ScriptAttentionMass(1, {0.5f, 0.95f});
  runner_->ScriptAttentionMass(2, {0.5f});
  GenerateRequest request = Sparse(Request("helped", 6));
  request.retrieval.budget_ratio = 0.05;
  const auto helped = Submit(request, PromptIds(780, 1));
  RunUntilIdle();
  request.request_id = "not helped";
  const auto not_helped = Submit(request, PromptIds(780, 2));
  RunUntilIdle();

  std::vector<int32_t> selected;
  for (const StepStats& step : observer_.steps()) {
    for (const RowRetrieval& row : step.sparse_rows) selected.push_back(row.selected_tokens);
  }
  // At least 64; then a fifth of the context, a quarter, and all of it.
  EXPECT_EQ(selected, (std::vector<int32_t>{64, 157, 157, 157, 157, 64, 157, 196}));
  RetrievalFallback fallback = helped->finish().retrieval.fallback;
  EXPECT_EQ(fallback.count, 1);
  EXPECT_FALSE(fallback.dense);
  EXPECT_DOUBLE_EQ(fallback.budget_ratio, 0.2);
  EXPECT_EQ(fallback.after_tokens, 2);
  EXPECT_EQ(helped->finish().retrieval.dense_steps, 0);
  fallback = not_helped->finish().retrieval.fallback;
  EXPECT_EQ(fallback.count, 3);
  EXPECT_TRUE(fallback.dense);
  EXPECT_EQ(fallback.after_tokens, 2);
  EXPECT_EQ(not_helped->finish().retrieval.dense_steps, 2);
}

TEST_F(EngineLoopQualityTest, AFallbackOutlivesPreemption) {
  options_.quality.sample_every = 1;
  options_.quality.floor = 0.9;
  options_.quality.low_samples = 1;
  options_.scheduler.num_pages = 8;
  Start(TinyHashedModelInfo());
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 2; ++i) {
    runner_->ScriptAttentionMass(1 + i, {0.1f, 1.0f});
    sinks.push_back(Submit(Sparse(Request(std::to_string(i), 200)), PromptIds(180 + i, 1 + i)));
  }
  RunUntilIdle();
  int preempted = 0;
  for (const StepStats& step : observer_.steps()) preempted += step.num_preempted;
  EXPECT_GT(preempted, 0);
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->finish().retrieval.fallback.count, 1);
    EXPECT_EQ(sink->finish().retrieval.quality.num_samples, 1);
    EXPECT_LE(sink->finish().retrieval.sparse_steps, 2);
  }
}

}  // namespace
}  // namespace spotlight::engine
