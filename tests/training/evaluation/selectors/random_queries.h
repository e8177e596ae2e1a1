// Query sets small enough for loops, and loops in double that say what a selection should be.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "training/evaluation/query_set.h"
#include "training/evaluation/selector.h"

namespace spotlight::training {

inline constexpr int64_t kKvHeads = 2, kGroup = 3, kHeadDim = 8;

inline at::Tensor Randn(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

// Keys lie around a centre, as a model's do. Small sinks, window and minimum, so that short sequences compete.
inline kernels::Budget SmallBudget(double ratio) {
  kernels::Budget budget;
  budget.ratio = ratio;
  budget.min_tokens = 3;
  budget.sink_tokens = 2;
  budget.recent_tokens = 5;
  return budget;
}

inline AttentionInput RandomAttention(int64_t tokens, uint64_t seed) {
  AttentionInput input;
  input.layer = 4;
  input.q = Randn({kKvHeads * kGroup, tokens, kHeadDim}, seed) + 0.3;
  input.k = Randn({kKvHeads, tokens, kHeadDim}, seed + 1) + Randn({kKvHeads, 1, kHeadDim}, seed + 2) * 2;
  input.v = Randn({kKvHeads, tokens, kHeadDim}, seed + 3);
  return input;
}

inline QuerySet RandomQueries(int64_t tokens, const std::vector<int64_t>& positions, double ratio, uint64_t seed) {
  return QueriesAt(RandomAttention(tokens, seed), positions, SmallBudget(ratio));
}

// Loops read single elements: without torch's dispatch, which costs a microsecond for each.
inline double At(const at::Tensor& tensor, std::initializer_list<int64_t> index) {
  int64_t offset = 0, dim = 0;
  for (const int64_t i : index) offset += i * tensor.stride(dim++);
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return tensor.const_data_ptr<float>()[offset];
    case at::kLong:
      return static_cast<double>(tensor.const_data_ptr<int64_t>()[offset]);
    case at::kBool:
      return tensor.const_data_ptr<bool>()[offset] ? 1 : 0;
    default:
      ADD_FAILURE() << "At reads no " << tensor.scalar_type();
      return 0;
  }
}

inline double Dot(const QuerySet& queries, int64_t head, int64_t g, int64_t n, int64_t token) {
  double dot = 0;
  for (int64_t d = 0; d < kHeadDim; ++d) dot += At(queries.q, {head, g, n, d}) * At(queries.k, {head, token, d});
  return dot;
}

// What kernels/budget.h says competes at a position: [begin, end), and how many are chosen.
struct Range {
  int64_t begin = 0, end = 0, count = 0;
};
inline Range CompetitionAt(const QuerySet& queries, int64_t n, double ratio) {
  const kernels::Budget budget = SmallBudget(ratio);
  const auto length = static_cast<int32_t>(At(queries.positions, {n}) + 1);
  Range range{budget.sink_tokens, length - budget.recent_tokens, kernels::NumSelected(budget, length)};
  if (range.count == 0) range.end = range.begin;
  return range;
}

// The `count` of [begin, end) with the highest scores, of equal ones the lower index.
inline std::vector<bool> BestOf(const Range& range, int64_t tokens, const std::function<double(int64_t)>& score) {
  std::vector<int64_t> order(std::max<int64_t>(0, range.end - range.begin));
  std::iota(order.begin(), order.end(), range.begin);
  std::vector<double> scores(tokens);
  for (const int64_t token : order) scores[token] = score(token);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  std::vector<bool> best(tokens, false);
  for (int64_t i = 0; i < std::min<int64_t>(range.count, order.size()); ++i) best[order[i]] = true;
  return best;
}

// score(head, g, n, token); g is 0 for selections that a group shares.
using Score = std::function<double(int64_t, int64_t, int64_t, int64_t)>;
inline void ExpectSelects(Selector* selector, const QuerySet& queries, double ratio, bool by_head, const Score& score) {
  const auto selection = selector->Select(queries);
  ASSERT_TRUE(selection.ok()) << selection.status();
  const int64_t heads = by_head ? kGroup : 1, tokens = queries.k.size(1), count = queries.positions.size(0);
  ASSERT_EQ(selection->mask.sizes(), (at::IntArrayRef{kKvHeads, heads, count, tokens}));
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (int64_t g = 0; g < heads; ++g) {
      for (int64_t n = 0; n < count; ++n) {
        const auto best =
            BestOf(CompetitionAt(queries, n, ratio), tokens, [&](int64_t token) { return score(head, g, n, token); });
        const at::Tensor row = selection->mask[head][g][n].contiguous();
        const std::vector<bool> selected(row.data_ptr<bool>(), row.data_ptr<bool>() + tokens);
        EXPECT_EQ(selected, best) << "KV head " << head << ", query head " << g << ", query " << n;
      }
    }
  }
}

}  // namespace spotlight::training
