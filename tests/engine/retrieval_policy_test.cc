#include "engine/retrieval_policy.h"

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

ModelInfo HashedModel() {
  ModelInfo model;
  model.dtype = "bf16";
  model.num_layers = 4;
  model.num_kv_heads = 2;
  model.head_dim = 64;
  model.hash.present = model.hash.trained = true;
  model.hash.hash_bits = 128;
  model.hash.layers = {2, 3};
  return model;
}

RetrievalPolicy Policy(const ModelInfo& model, RetrievalOptions options = {}) {
  return *RetrievalPolicy::Create(options, model);
}

TEST(RetrievalPolicyTest, AutoIsDenseBelowTheCrossoverAndSparseFromIt) {
  const RetrievalPolicy policy = Policy(HashedModel());
  EXPECT_EQ(policy.Decide({}, {}, 4095).dense_reason, DenseReason::kShortContext);
  EXPECT_EQ(policy.Decide({}, {}, 4095).num_select, 0);
  EXPECT_EQ(policy.Decide({}, {}, 4096).num_select, 82);  // ceil(0.02 * 4096)
  EXPECT_EQ(policy.Decide({}, {}, 4096).dense_reason, DenseReason::kNone);
}

TEST(RetrievalPolicyTest, SparseNeedsMoreCandidatesThanTheLeastSelection) {
  const RetrievalPolicy policy = Policy(HashedModel());
  RetrievalParams sparse;
  sparse.mode = RetrievalMode::kSparse;
  EXPECT_EQ(policy.Decide(sparse, {}, 132).dense_reason, DenseReason::kShortContext);  // 64 candidates
  EXPECT_EQ(policy.Decide(sparse, {}, 133).num_select, 64);
}

TEST(RetrievalPolicyTest, RequestsMayChooseDenseOrAnotherBudget) {
  const RetrievalPolicy policy = Policy(HashedModel());
  RetrievalParams params;
  params.budget_ratio = 0.1;
  EXPECT_EQ(policy.Decide(params, {}, 10000).num_select, 1000);
  params.mode = RetrievalMode::kDense;
  EXPECT_EQ(policy.Decide(params, {}, 10000).dense_reason, DenseReason::kRequestOverride);
}

TEST(RetrievalPolicyTest, TheGuardrailGoesBeforeTheRequestsBudget) {
  const RetrievalPolicy policy = Policy(HashedModel());
  RetrievalParams params;
  params.mode = RetrievalMode::kSparse;
  params.budget_ratio = 0.05;
  RetrievalFallback fallback;
  fallback.count = 1;
  fallback.budget_ratio = 0.2;
  EXPECT_EQ(policy.Decide(params, fallback, 10000).num_select, 2000);
  fallback.dense = true;
  EXPECT_EQ(policy.Decide(params, fallback, 10000).num_select, 0);
  EXPECT_EQ(policy.Decide(params, fallback, 10000).dense_reason, DenseReason::kGuardrail);
}

TEST(RetrievalPolicyTest, WithoutAHashAutoIsDenseAndSparseIsRefused) {
  ModelInfo model = HashedModel();
  model.hash = {};
  RetrievalOptions options;
  const RetrievalPolicy policy = Policy(model, options);
  EXPECT_EQ(policy.Decide({}, {}, 100000).dense_reason, DenseReason::kNoHash);
  EXPECT_TRUE(policy.Check({}).ok());
  RetrievalParams sparse, dense;
  sparse.mode = RetrievalMode::kSparse;
  dense.mode = RetrievalMode::kDense;
  EXPECT_EQ(policy.Check(sparse).code(), absl::StatusCode::kFailedPrecondition);
  options.sparse_required = true;
  EXPECT_EQ(Policy(model, options).Check({}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Policy(model, options).Check(dense).ok());
}

TEST(RetrievalPolicyTest, ARequestOverridesTheBudgetPieceByPiece) {
  RetrievalOptions options;
  options.sparse_min_context = 0;
  const RetrievalPolicy policy = Policy(HashedModel(), options);
  RetrievalParams params;
  params.sink_tokens = 0;
  params.recent_tokens = 200;
  RetrievalDecision decision = policy.Decide(params, {}, 10000);
  EXPECT_EQ(decision.num_select, 200);  // 2%
  EXPECT_EQ(decision.sink_tokens, 0);
  EXPECT_EQ(decision.recent_tokens, 200);
  EXPECT_TRUE(decision.own_ends);
  EXPECT_EQ(decision.NumCandidates(10000), 9800);
  EXPECT_EQ(decision.NumAttended(), 400);
  params.min_tokens = 1000;
  EXPECT_EQ(policy.Decide(params, {}, 10000).num_select, 1000);
  params.budget_ratio = 0.2;
  EXPECT_EQ(policy.Decide(params, {}, 10000).num_select, 2000);
  EXPECT_EQ(policy.Decide(params, {}, 1200).dense_reason, DenseReason::kShortContext);  // 1000 candidates
  EXPECT_EQ(policy.Decide(params, {}, 1201).num_select, 1000);
  decision = policy.Decide({}, {}, 10000);
  EXPECT_EQ(decision.sink_tokens, 4);
  EXPECT_EQ(decision.recent_tokens, 64);
  EXPECT_FALSE(decision.own_ends);
}

TEST(RetrievalPolicyTest, CountsBytesLayerByLayer) {
  const RetrievalPolicy policy = Policy(HashedModel());
  const int64_t kv = 2 * 2 * 64 * 2;  // K and V, 2 heads, D = 64, 2 bytes
  const KvTraffic dense = policy.Traffic(RetrievalDecision(), 10000);
  EXPECT_EQ(dense.read_bytes, 4 * 10000 * kv);
  EXPECT_EQ(dense.dense_equivalent_bytes, dense.read_bytes);
  const KvTraffic sparse = policy.Traffic({200, DenseReason::kNone, 4, 64}, 10000);
  const int64_t codes = int64_t{10000 - 68} * 2 * 16;
  EXPECT_EQ(sparse.read_bytes, 2 * 10000 * kv + 2 * (codes + 268 * kv));
  EXPECT_EQ(sparse.dense_equivalent_bytes, dense.dense_equivalent_bytes);
}

TEST(RetrievalPolicyTest, CountsTheBytesOfAnFp8CacheAndItsScales) {
  ModelInfo model = HashedModel();
  model.kv_cache_dtype = "fp8";
  EXPECT_EQ(Policy(model).Traffic(RetrievalDecision(), 10000).read_bytes, 4 * 10000 * (2 * 2 * (64 + 4)));
}

TEST(RetrievalPolicyTest, RefusesWhatItCannotCount) {
  ModelInfo model = HashedModel();
  model.dtype = "int4";
  EXPECT_EQ(RetrievalPolicy::Create({}, model).status().code(), absl::StatusCode::kInvalidArgument);
  RetrievalOptions options;
  options.budget.ratio = 0;
  EXPECT_EQ(RetrievalPolicy::Create(options, HashedModel()).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.sparse_min_context = -1;
  EXPECT_EQ(RetrievalPolicy::Create(options, HashedModel()).status().message(),
            "sparse_min_context: must be at least 0, got -1");
}

TEST(RetrievalPolicyTest, SaysWhenTheHashWasNeverTrained) {
  ModelInfo model = HashedModel();
  EXPECT_FALSE(Policy(model).untrained_hash());
  model.hash.trained = false;
  EXPECT_TRUE(Policy(model).untrained_hash());
}

}  // namespace
}  // namespace spotlight::engine
