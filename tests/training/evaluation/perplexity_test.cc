// Perplexity of runs that retrieve, against an independent float64 implementation, and the bookkeeping around it.
#include "training/evaluation/perplexity.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/training/evaluation/test_selectors.h"
#include "training/evaluation/token_scores.h"

namespace spotlight::training {
namespace {

using nlohmann::json;

json Golden() {
  std::ifstream file("tests/testdata/goldens/sparse_perplexity_tiny_llama.json");
  EXPECT_TRUE(file);
  return json::parse(file);
}

// Of log-probabilities, over those of the golden.
double MeanGap(const std::vector<float>& value, const std::vector<double>& reference) {
  EXPECT_EQ(value.size(), reference.size());
  double gap = 0;
  for (size_t i = 0; i < value.size(); ++i) gap += std::abs(value[i] - reference[i]);
  return gap / static_cast<double>(value.size());
}

TEST(PerplexityTest, OracleBsLogProbabilitiesAreTransformersWithMaskedAttention) {
  const auto model = LoadTiny("tiny-llama");
  ASSERT_NE(model, nullptr);
  const json golden = Golden();
  const auto ids = golden["token_ids"].get<std::vector<int32_t>>();
  const auto first = golden["dense_tokens"].get<int64_t>();
  const auto targets = absl::MakeConstSpan(ids).subspan(first + 1);
  auto dense = RunDense(*model, ids, first);
  ASSERT_TRUE(dense.ok()) << dense.status();
  const auto score = [&](const at::Tensor& states) {
    auto scores = ScoreTokens(*model, states.narrow(0, 0, static_cast<int64_t>(targets.size())), targets);
    EXPECT_TRUE(scores.ok()) << scores.status();
    return scores.ok() ? scores->log_prob : std::vector<float>();
  };
  EXPECT_LT(MeanGap(score(dense->states), golden["dense_log_probs"]), 2e-5);
  for (const json& example : golden["cases"]) {
    SCOPED_TRACE(example["budget"].dump());
    SparseRunOptions options;
    options.first_layer = golden["first_layer"];
    options.budget = {example["budget"]["ratio"], example["budget"]["min_tokens"], example["budget"]["sink_tokens"],
                      example["budget"]["recent_tokens"]};
    RankSelector oracle = OracleB();
    auto states = RunSparse(*model, *dense, &oracle, options);
    ASSERT_TRUE(states.ok()) << states.status();
    EXPECT_LT(MeanGap(score(*states), example["log_probs"]), 2e-5);
  }
}

class MeasurePerplexityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = LoadTiny("tiny-llama");
    ASSERT_NE(model_, nullptr);
    auto running = RunningText("noise", SomeTokens(200), 200);
    ASSERT_TRUE(running.ok()) << running.status();
    sequences_ = {*running};
    options_.run.first_layer = 1;
    options_.run.budget = {/*ratio=*/0.5, /*min_tokens=*/4, /*sink_tokens=*/4, /*recent_tokens=*/16};
    options_.budgets = {0.05, 1.0};
  }

  std::unique_ptr<SequenceModel> model_;
  std::vector<ScoredSequence> sequences_;
  PerplexityOptions options_;
  RankSelector oracle_ = OracleB();
  RankSelector worst_{"worst", [](const QuerySet& queries) { return -queries.probs.sum(1, /*keepdim=*/true); }};
};

TEST_F(MeasurePerplexityTest, RowsNameSequenceSelectorAndBudgetAndAreDenseAtTheFullBudget) {
  std::vector<std::string> steps;
  auto rows =
      MeasurePerplexity(*model_, sequences_, {&worst_}, &oracle_, options_, [&](const EvaluationProgress& step) {
        steps.push_back(step.what);
        EXPECT_EQ(step.total, 5);
        EXPECT_EQ(step.done, static_cast<int64_t>(steps.size()));
      });
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(steps, (std::vector<std::string>{
                       "perplexity: noise running, dense", "perplexity: noise running, oracle_b, 5%",
                       "perplexity: noise running, worst, 5%", "perplexity: noise running, oracle_b, 100%",
                       "perplexity: noise running, worst, 100%"}));
  ASSERT_EQ(rows->size(), 2u);
  const PerplexityRow &small = (*rows)[0], &full = (*rows)[1];
  EXPECT_EQ(small.selector, "worst");
  EXPECT_EQ(small.num_scored, 99);
  EXPECT_EQ(small.budget, 0.05);
  EXPECT_GT(std::abs(small.value / small.dense - 1), 1e-3);
  EXPECT_NE(small.oracle_b, small.value);
  EXPECT_LT(small.agreement, 1);
  EXPECT_NEAR(full.value / full.dense, 1, 1e-4);
  EXPECT_NEAR(full.oracle_b / full.dense, 1, 1e-4);
  EXPECT_EQ(full.agreement, 1);
  EXPECT_LT(full.log_prob_gap, 1e-4);
}

TEST_F(MeasurePerplexityTest, TheOracleMayBeOneOfTheSelectors) {
  options_.budgets = {0.05};
  auto rows = MeasurePerplexity(*model_, sequences_, {&oracle_, &worst_}, &oracle_, options_, nullptr);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].value, (*rows)[0].oracle_b);
  EXPECT_EQ((*rows)[0].oracle_b, (*rows)[1].oracle_b);
}

TEST_F(MeasurePerplexityTest, RefusesBudgetsThatAreNoShare) {
  for (const double budget : {0.0, -0.1, 1.5, std::nan("")}) {
    options_.budgets = {budget};
    EXPECT_EQ(MeasurePerplexity(*model_, sequences_, {&worst_}, nullptr, options_, nullptr).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenScoresTest, PerplexityOfEqualChancesIsTheirNumber) {
  EXPECT_NEAR(Perplexity(std::vector<float>(10, -std::log(7.0f))), 7, 1e-5);
}

}  // namespace
}  // namespace spotlight::training
