// Runs whose later tokens retrieve, against dense runs and against themselves.
#include "training/evaluation/sparse_sequence.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/testing/tensor_error.h"
#include "tests/training/evaluation/test_selectors.h"

namespace spotlight::training {
namespace {

using spotlight::testing::RelativeError;

class FailingSelector : public EverySelector {
 public:
  absl::StatusOr<Selection> Select(const QuerySet&) override { return absl::DataLossError("stop"); }
};

class SparseSequenceTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = LoadTiny(GetParam());
    ASSERT_NE(model_, nullptr);
    options_.first_layer = 1;
    options_.budget = {/*ratio=*/0.05, /*min_tokens=*/8, /*sink_tokens=*/4, /*recent_tokens=*/16};
  }
  DenseRun Dense(const std::vector<int32_t>& ids, int64_t dense_tokens) {
    auto dense = RunDense(*model_, ids, dense_tokens);
    EXPECT_TRUE(dense.ok()) << dense.status();
    return dense.ok() ? *std::move(dense) : DenseRun();
  }
  at::Tensor Sparse(const DenseRun& dense, Selector* selector) {
    auto states = RunSparse(*model_, dense, selector, options_);
    EXPECT_TRUE(states.ok()) << states.status();
    return states.ok() ? *std::move(states) : at::Tensor();
  }

  std::unique_ptr<SequenceModel> model_;
  SparseRunOptions options_;
};

TEST_P(SparseSequenceTest, WithoutASelectorTheDenseRunIsRepeated) {
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_LT(RelativeError(Sparse(dense, nullptr), dense.states), 1e-5);
}

TEST_P(SparseSequenceTest, SelectingEveryCandidateIsDense) {
  EverySelector every;
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_LT(RelativeError(Sparse(dense, &every), dense.states), 1e-5);
}

TEST_P(SparseSequenceTest, ABudgetThatCoversAllCandidatesIsDense) {
  RankSelector oracle = OracleB();
  options_.budget.ratio = 1;
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_LT(RelativeError(Sparse(dense, &oracle), dense.states), 1e-5);
}

TEST_P(SparseSequenceTest, ASmallBudgetIsNotDense) {
  RankSelector oracle = OracleB();
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_GT(RelativeError(Sparse(dense, &oracle), dense.states), 1e-3);
}

TEST_P(SparseSequenceTest, OnlyLayersFromTheFirstHashedOneRetrieve) {
  RankSelector oracle = OracleB();
  options_.first_layer = model_->config().num_layers;
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_LT(RelativeError(Sparse(dense, &oracle), dense.states), 1e-5);
}

TEST_P(SparseSequenceTest, ChunksOfQueriesDoNotMatter) {
  RankSelector oracle = OracleB();
  const DenseRun dense = Dense(SomeTokens(200), 90);
  const at::Tensor whole = Sparse(dense, &oracle);
  options_.max_chunk_bytes = 1;  // a query at a time
  EXPECT_LT(RelativeError(Sparse(dense, &oracle), whole), 1e-5);
  options_.max_chunk_bytes = 500 << 10;
  EXPECT_LT(RelativeError(Sparse(dense, &oracle), whole), 1e-5);
}

TEST_P(SparseSequenceTest, LaterTokensDoNotChangeEarlierStates) {
  RankSelector oracle = OracleB();
  std::vector<int32_t> ids = SomeTokens(200);
  const at::Tensor before = Sparse(Dense(ids, 90), &oracle);
  for (size_t i = 150; i < ids.size(); ++i) ids[i] = (ids[i] + 77) % 500;
  const at::Tensor after = Sparse(Dense(ids, 90), &oracle);
  EXPECT_LT(RelativeError(after.narrow(0, 0, 60), before.narrow(0, 0, 60)), 1e-5);
  EXPECT_GT(RelativeError(after.narrow(0, 60, 50), before.narrow(0, 60, 50)), 1e-2);
}

TEST_P(SparseSequenceTest, KeysAndValuesOfLaterTokensComeFromTheSparseRun) {
  RankSelector oracle = OracleB();
  // Were they dense, what the last token reads would not depend on where the sparse part began.
  const std::vector<int32_t> ids = SomeTokens(200);
  const at::Tensor early = Sparse(Dense(ids, 90), &oracle), late = Sparse(Dense(ids, 199), &oracle);
  EXPECT_GT(RelativeError(early[109], late[0]), 1e-4);
}

TEST_P(SparseSequenceTest, ASelectorsErrorEndsTheRun) {
  FailingSelector failing;
  const DenseRun dense = Dense(SomeTokens(200), 90);
  EXPECT_EQ(RunSparse(*model_, dense, &failing, options_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_P(SparseSequenceTest, RefusesASequenceThatIsAllDenseOrLongerThanTheContext) {
  EXPECT_EQ(RunDense(*model_, SomeTokens(10), 10).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RunDense(*model_, SomeTokens(10), 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RunDense(*model_, SomeTokens(model_->config().max_context_tokens + 1), 10).status().code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Families, SparseSequenceTest, ::testing::Values("tiny-llama", "tiny-qwen2"));

}  // namespace
}  // namespace spotlight::training
