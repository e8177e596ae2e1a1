#include "engine/build_batch.h"

#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

RetrievalPolicy HashedPolicy(int32_t sparse_min_context) {
  ModelInfo model;
  model.dtype = "bf16";
  model.num_layers = 4;
  model.num_kv_heads = 1;
  model.head_dim = 64;
  model.hash.present = model.hash.trained = true;
  model.hash.hash_bits = 128;
  model.hash.layers = {2, 3};
  RetrievalOptions options;
  options.sparse_min_context = sparse_min_context;
  return *RetrievalPolicy::Create(options, model);
}

Sequence Decoding(int32_t num_tokens, int32_t first_page) {
  Sequence sequence;
  std::vector<int32_t> prompt(num_tokens - 1);
  std::iota(prompt.begin(), prompt.end(), 0);
  sequence.prompt_token_ids = std::move(prompt);
  sequence.output_token_ids = {900};
  sequence.num_cached = num_tokens - 1;
  sequence.phase = SequencePhase::kDecode;
  for (int32_t p = 0; p * 64 < num_tokens; ++p) sequence.pages.push_back(first_page + p);
  return sequence;
}

TEST(SplitByRetrievalTest, PutsDenseRowsFirstAndKeepsTheOrderOtherwise) {
  Sequence long_a = Decoding(1000, 0), short_b = Decoding(100, 100), long_c = Decoding(2000, 200);
  Sequence short_d = Decoding(300, 300), prompt = Decoding(500, 400);
  StepPlan plan;
  for (Sequence* s : {&long_a, &short_b, &long_c, &short_d}) plan.rows.push_back({s, s->num_cached, 1, true, {}});
  plan.rows.push_back({&prompt, 0, 400, false, {}});
  plan.num_decode_rows = 4;
  SplitByRetrieval(HashedPolicy(512), &plan);
  EXPECT_EQ(plan.num_dense_rows, 2);
  EXPECT_EQ(plan.rows[0].sequence, &short_b);
  EXPECT_EQ(plan.rows[1].sequence, &short_d);
  EXPECT_EQ(plan.rows[2].sequence, &long_a);
  EXPECT_EQ(plan.rows[3].sequence, &long_c);
  EXPECT_EQ(plan.rows[4].sequence, &prompt);
  EXPECT_EQ(plan.rows[0].retrieval.dense_reason, DenseReason::kShortContext);
  EXPECT_EQ(plan.rows[2].retrieval.num_select, 64);
  EXPECT_EQ(plan.rows[4].retrieval.num_select, 0);
}

TEST(BuildBatchTest, SparseRowsFormRunsOfEqualEndsWhereARequestHasItsOwn) {
  Sequence a = Decoding(1000, 0), b = Decoding(1000, 20), c = Decoding(1000, 40), dense = Decoding(100, 60);
  const auto build = [&] {
    StepPlan plan;
    for (Sequence* s : {&a, &b, &dense, &c}) plan.rows.push_back({s, s->num_cached, 1, true, {}});
    plan.num_decode_rows = 4;
    SplitByRetrieval(HashedPolicy(512), &plan);
    Batch batch;
    BuildBatch(plan, &batch);
    return batch;
  };
  EXPECT_TRUE(build().sparse_runs.empty());
  b.retrieval.sink_tokens = 9;
  const Batch batch = build();
  EXPECT_EQ(batch.num_dense_rows, 1);
  ASSERT_EQ(batch.sparse_runs.size(), 2u);
  EXPECT_EQ(batch.sparse_runs[0].end, 3);
  EXPECT_EQ(batch.sparse_runs[0].sink_tokens, 4);
  EXPECT_EQ(batch.sparse_runs[1].end, 4);
  EXPECT_EQ(batch.sparse_runs[1].sink_tokens, 9);
  EXPECT_EQ(batch.page_table[3 * batch.max_pages], 20);
}

TEST(BuildBatchTest, PacksTokensPositionsSlotsAndPages) {
  Sequence decode = Decoding(66, 10), prompt = Decoding(200, 20);
  prompt.num_cached = 60;
  StepPlan plan;
  plan.rows = {{&decode, 65, 1, true, {}}, {&prompt, 60, 10, false, {}}};
  plan.num_decode_rows = plan.num_dense_rows = 1;
  Batch batch;
  BuildBatch(plan, &batch);
  EXPECT_EQ(batch.num_rows, 2);
  EXPECT_EQ(batch.num_decode_rows, 1);
  EXPECT_EQ(batch.token_ids, (std::vector<int32_t>{900, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{65, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69}));
  EXPECT_EQ(batch.slots[0], 11 * 64 + 1);
  EXPECT_EQ(batch.slots[4], 20 * 64 + 63);
  EXPECT_EQ(batch.slots[5], 21 * 64);
  EXPECT_EQ(batch.query_begin, (std::vector<int32_t>{0, 1, 11}));
  EXPECT_EQ(batch.context_len, (std::vector<int32_t>{66, 70}));
  EXPECT_EQ(batch.max_pages, 2);
  EXPECT_EQ(batch.page_table, (std::vector<int32_t>{10, 11, 20, 21}));
  ASSERT_EQ(batch.samples.size(), 1u);
  EXPECT_EQ(batch.samples[0].token_index, 0);
  EXPECT_EQ(batch.samples[0].output_index, 1);
}

TEST(BuildBatchTest, AReusedBatchHoldsNothingOfTheStepBefore) {
  Sequence large = Decoding(640, 0), small = Decoding(5, 40);
  StepPlan plan;
  plan.rows = {{&large, 0, 600, false, {}}};
  Batch reused, fresh;
  BuildBatch(plan, &reused);
  reused.time_retrieval = true;
  plan.rows = {{&small, 4, 1, true, {}}};
  plan.num_decode_rows = plan.num_dense_rows = 1;
  BuildBatch(plan, &reused);
  BuildBatch(plan, &fresh);
  EXPECT_EQ(reused.token_ids, fresh.token_ids);
  EXPECT_EQ(reused.page_table, fresh.page_table);
  EXPECT_EQ(reused.query_begin, fresh.query_begin);
  EXPECT_EQ(reused.samples.size(), 1u);
  EXPECT_FALSE(reused.time_retrieval);
}

TEST(BuildBatchTest, GivesPenaltiesAndBansOnlyWhereTheyApply) {
  Sequence plain = Decoding(5, 0), strict = Decoding(5, 1);
  strict.has_penalty = true;
  strict.min_tokens = 2;
  strict.banned_token_ids = {3};
  StepPlan plan;
  plan.rows = {{&plain, 4, 1, true, {}}, {&strict, 4, 1, true, {}}};
  plan.num_decode_rows = plan.num_dense_rows = 2;
  Batch batch;
  BuildBatch(plan, &batch);
  EXPECT_EQ(batch.samples[0].output_token_ids, nullptr);
  EXPECT_EQ(batch.samples[0].banned_token_ids, nullptr);
  EXPECT_EQ(batch.samples[1].output_token_ids, &strict.output_token_ids);
  EXPECT_EQ(batch.samples[1].banned_token_ids, &strict.banned_token_ids);
  strict.output_token_ids.push_back(1);
  BuildBatch(plan, &batch);
  EXPECT_EQ(batch.samples[1].banned_token_ids, nullptr);
}

}  // namespace
}  // namespace spotlight::engine
