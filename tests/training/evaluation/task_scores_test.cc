// Scores of generated tasks on the tiny model, which can answer none: that dense is dense and rows say what they are.
#include "training/evaluation/task_scores.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/training/evaluation/test_selectors.h"
#include "tests/training/evaluation/tiny_engine.h"
#include "training/evaluation/answer_scores.h"
#include "training/evaluation/token_scores.h"

namespace spotlight::training {
namespace {

class TaskScoresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = LoadTiny("tiny-llama");
    ASSERT_NE(model_, nullptr);
    options_.budgets = {0.02, 1.0};
    options_.run.first_layer = 1;
    options_.run.budget.min_tokens = 8;
  }
  std::vector<TaskCell> Cells(const std::vector<std::string>& tasks, int64_t length, int32_t examples) {
    auto cells = MakeTaskCells(tasks, {length}, examples, 1, EncodeWith(*model_->tokenizer()));
    EXPECT_TRUE(cells.ok()) << cells.status();
    return cells.ok() ? *std::move(cells) : std::vector<TaskCell>();
  }

  std::unique_ptr<SequenceModel> model_;
  TaskLikelihoodOptions options_;
  RankSelector oracle_ = OracleB();
  RankSelector worst_{"worst", [](const QuerySet& queries) { return -queries.probs.sum(1, /*keepdim=*/true); }};
};

TEST_F(TaskScoresTest, TheFullBudgetIsDenseAndASmallOneIsNot) {
  const std::vector<TaskCell> cells = Cells({"needle", "variables"}, 1200, 2);
  std::vector<std::string> steps;
  auto rows = MeasureTaskLikelihood(*model_, cells, {&worst_}, &oracle_, options_,
                                    [&](const EvaluationProgress& step) { steps.push_back(step.what); });
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(steps, (std::vector<std::string>{"tasks: needle, 1200 tokens", "tasks: needle, 1200 tokens",
                                             "tasks: variables, 1200 tokens", "tasks: variables, 1200 tokens"}));
  ASSERT_EQ(rows->size(), 4u);
  for (size_t i = 0; i < rows->size(); ++i) {
    const TaskLikelihoodRow& row = (*rows)[i];
    SCOPED_TRACE(i);
    EXPECT_EQ(row.task, i < 2 ? "needle" : "variables");
    EXPECT_EQ(row.selector, "worst");
    EXPECT_EQ(row.num_examples, 2);
    EXPECT_EQ(row.length, 1200);
    EXPECT_FALSE(row.depth.has_value());
    EXPECT_LT(row.dense, 0);
    if (row.budget == 1) {
      EXPECT_NEAR(row.value, row.dense, 1e-3);
      EXPECT_NEAR(row.oracle_b, row.dense, 1e-3);
    } else {
      EXPECT_GT(std::abs(row.value - row.dense), 1e-2);
      EXPECT_NE(row.oracle_b, row.value);
    }
  }
}

TEST_F(TaskScoresTest, DenseLikelihoodIsThatOfTheAnswersTokensInOnePass) {
  const std::vector<TaskCell> cells = Cells({"multi_value"}, 1000, 1);
  ASSERT_EQ(cells.size(), 1u);
  const EncodedExample& example = cells[0].examples[0];
  auto scores = ScoreAnswer(*model_, example, {}, {}, options_.run);
  ASSERT_TRUE(scores.ok()) << scores.status();
  std::vector<int32_t> ids = example.context;
  ids.insert(ids.end(), example.question.begin(), example.question.end());
  const auto first = static_cast<int64_t>(ids.size());
  ids.insert(ids.end(), example.answer.begin(), example.answer.end());
  auto states = model_->Run(
      ids, [](const AttentionInput& input) -> absl::StatusOr<at::Tensor> { return DenseAttention(input); }, first - 1,
      static_cast<int64_t>(ids.size()) - 1);
  ASSERT_TRUE(states.ok()) << states.status();
  auto reference = ScoreTokens(*model_, *states, example.answer);
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_NEAR(scores->dense.log_prob, -std::log(Perplexity(reference->log_prob)), 1e-5);
}

TEST_F(TaskScoresTest, AnswersComeFromTheEngineForEveryCellAndBudget) {
  const auto engine = LoadTinyEngine(/*hash=*/true);
  ASSERT_NE(engine, nullptr);
  auto grid = MakeNeedleGrid({1000, 1500}, {0, 0.5}, 1, 1, EncodeWith(*model_->tokenizer()));
  ASSERT_TRUE(grid.ok()) << grid.status();
  auto rows = MeasureTaskAnswers(engine.get(), *grid, {0.02, 0.1}, nullptr);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 8u);
  EXPECT_EQ((*rows)[2].length, 1000);
  EXPECT_EQ((*rows)[2].depth, 0.5);
  EXPECT_EQ((*rows)[3].budget, 0.1);
  for (const TaskAnswerRow& row : *rows) EXPECT_EQ(row.dense, 0) << "random weights know no answer";
}

TEST_F(TaskScoresTest, RefusesAnExampleLongerThanTheEnginesContext) {
  const auto engine = LoadTinyEngine(/*hash=*/true);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(MeasureTaskAnswers(engine.get(), Cells({"needle"}, 6000, 1), {0.02}, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TaskScoresTest, UnknownTasksAndDepthsAreRefusedByName) {
  const EncodeFunction encode = EncodeWith(*model_->tokenizer());
  const absl::Status task = MakeTaskCells({"chess"}, {1000}, 1, 1, encode).status();
  EXPECT_EQ(task.message(),
            "task chess: must be one of needle, multi_key, many_keys, multi_value, multi_query, variables, "
            "common_words, frequent_words");
  EXPECT_EQ(MakeNeedleGrid({1000}, {1.5}, 1, 1, encode).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeTaskCells({}, {1000}, 0, 1, encode).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotlight::training
