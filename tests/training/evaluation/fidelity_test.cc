// Fidelity's bookkeeping on an engine whose every token is known, and the whole of it on the tiny model.
#include "training/evaluation/fidelity.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/training/evaluation/tiny_engine.h"
#include "training/evaluation/greedy.h"

namespace spotlight::training {
namespace {

// Counts on from the prompt's last token. Sparse steps say 1000 at the places of `wrong` (positions in the sequence); a
// request's first token is always right.
class CountingEngine final : public engine::Engine {
 public:
  explicit CountingEngine(std::set<size_t> wrong) : wrong_(std::move(wrong)) {}

  absl::Status Submit(engine::GenerateRequest request, std::shared_ptr<engine::ResponseSink> sink) override {
    ++num_requests_;
    const auto& prompt = std::get<engine::TokenPrompt>(request.prompt).token_ids;
    const bool sparse = request.retrieval.mode == engine::RetrievalMode::kSparse;
    std::vector<int32_t> ids = prompt;
    engine::Delta delta;
    for (int32_t i = 0; i < *request.stopping.max_tokens; ++i) {
      const bool mistaken = sparse && i > 0 && wrong_.count(ids.size()) > 0;
      ids.push_back(mistaken ? 1000 : ids.back() + 1);
      delta.token_ids.push_back(ids.back());
    }
    sink->OnPrompt(static_cast<int32_t>(prompt.size()));
    sink->OnDelta(std::move(delta));
    sink->OnFinish(engine::Finish());
    return absl::OkStatus();
  }
  absl::Status Cancel(const std::string&, engine::CancelReason, const engine::CancelScope&) override {
    return absl::OkStatus();
  }
  void Drain(absl::Duration) override {}
  absl::Status CheckTextSize(const std::string&) const override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const engine::Prompt&) const override { return std::vector<int32_t>(); }
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>&) const override { return std::string(); }
  engine::EngineLoad Load() const override { return engine::EngineLoad(); }
  const engine::ModelInfo& model() const override { return model_; }
  const engine::EngineOptions& options() const override { return options_; }
  int num_requests() const { return num_requests_; }

 private:
  const std::set<size_t> wrong_;
  int num_requests_ = 0;
  engine::ModelInfo model_;
  engine::EngineOptions options_;
};

FidelityRow MeasureCounting(CountingEngine* engine, int32_t num_tokens) {
  FidelityOptions options;
  options.budgets = {0.02};
  options.num_tokens = num_tokens;
  auto rows = MeasureFidelity(engine, {{"counting", {0, 1, 2, 3}}}, options, nullptr);
  EXPECT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(rows->size(), 1u);
  return rows.ok() ? (*rows)[0] : FidelityRow();
}

TEST(FidelityTest, WithoutMistakesAllTokensAreEqual) {
  CountingEngine engine({});
  const FidelityRow row = MeasureCounting(&engine, 10);
  EXPECT_EQ(row.first_divergence, 10);
  EXPECT_EQ(row.equal_share, 1);
  EXPECT_EQ(row.agreement, 1);
  EXPECT_EQ(row.num_judged, 9) << "the first token is a dense prefill's";
  EXPECT_EQ(engine.num_requests(), 2);
}

TEST(FidelityTest, AfterAMistakeTheFreeRunGoesItsOwnWayAndTheHeldOneComesBack) {
  CountingEngine engine({6});  // the continuation's third token
  const FidelityRow row = MeasureCounting(&engine, 10);
  EXPECT_EQ(row.first_divergence, 2);
  EXPECT_EQ(row.equal_share, 0.2);
  EXPECT_EQ(row.num_judged, 2 + 6) << "the first token of either run is not judged";
  EXPECT_EQ(row.agreement, 1 - 1.0 / 8);
}

TEST(FidelityTest, EveryMistakeCountsOnce) {
  CountingEngine engine({6, 9, 13});
  const FidelityRow row = MeasureCounting(&engine, 10);
  EXPECT_EQ(row.num_judged, 2 + 2 + 3);
  EXPECT_DOUBLE_EQ(row.agreement, 1 - 3.0 / 7);
  EXPECT_EQ(engine.num_requests(), 2 + 2) << "a mistake at the end starts nothing";
}

TEST(FidelityTest, RefusesAContinuationWithoutASparseToken) {
  CountingEngine engine({});
  FidelityOptions options;
  options.num_tokens = 1;
  EXPECT_EQ(MeasureFidelity(&engine, {}, options, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(FidelityTest, SelectingEveryTokenIsTheDenseModel) {
  const auto engine = LoadTinyEngine(/*hash=*/true);
  ASSERT_NE(engine, nullptr);
  FidelityOptions options;
  options.budgets = {1.0, 0.02};
  options.num_tokens = 24;
  std::vector<std::string> steps;
  auto rows = MeasureFidelity(engine.get(), {{"noise", SomeTokens(600)}}, options,
                              [&](const EvaluationProgress& step) { steps.push_back(step.what); });
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].first_divergence, 24);
  EXPECT_EQ((*rows)[0].agreement, 1);
  EXPECT_EQ((*rows)[0].num_judged, 23);
  EXPECT_EQ((*rows)[0].selected_ratio, 1);
  // An untrained hash on a random model.
  EXPECT_LT((*rows)[1].agreement, 1);
  EXPECT_GT((*rows)[1].num_judged, 0);
  EXPECT_LT((*rows)[1].selected_ratio, 0.3);
  EXPECT_EQ(steps,
            (std::vector<std::string>{"fidelity: noise, dense", "fidelity: noise, 100%", "fidelity: noise, 2%"}));
}

TEST(FidelityTest, SaysThatAnEngineWithoutAHashCannotRetrieve) {
  const auto engine = LoadTinyEngine(/*hash=*/false);
  ASSERT_NE(engine, nullptr);
  FidelityOptions options;
  options.budgets = {0.02};
  options.num_tokens = 4;
  EXPECT_EQ(MeasureFidelity(engine.get(), {{"noise", SomeTokens(300)}}, options, nullptr).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(FidelityTest, DenseContinuationGoesOnWithTheEnginesTokens) {
  CountingEngine engine({});
  auto sequence = DenseContinuation(&engine, {"counting", {0, 1, 2}}, 4);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  EXPECT_EQ(sequence->token_ids, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(sequence->dense_tokens, 3);
  EXPECT_EQ(sequence->first_query, 3);
  EXPECT_EQ(sequence->kind, "continuation");
}

}  // namespace
}  // namespace spotlight::training
