#include "training/evaluation/query_set.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace spotlight::training {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// [Hq, T] floats alive at once for each query: logits, probabilities, a selector's scores and what ranks them, the
// measures' products, and masks.
constexpr int64_t kFloatsPerQueryHeadAndToken = 10;

at::Tensor ToDevice(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace

std::vector<int64_t> DrawQueryPositions(int64_t num_tokens, int32_t count, uint64_t seed) {
  const int64_t half = num_tokens / 2;
  std::vector<int64_t> positions(num_tokens - half);
  std::iota(positions.begin(), positions.end(), half);
  const auto drawn = std::min<int64_t>(count, num_tokens - half);
  // Fisher and Yates' shuffle, as far as it is needed. The standard's distributions differ between libraries.
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < drawn; ++i) {
    const int64_t left = static_cast<int64_t>(positions.size()) - i;
    std::swap(positions[i], positions[i + static_cast<int64_t>(random() % static_cast<uint64_t>(left))]);
  }
  positions.resize(drawn);
  std::sort(positions.begin(), positions.end());
  return positions;
}

QuerySet MakeQuerySet(const AttentionInput& input, absl::Span<const int64_t> positions, const kernels::Budget& budget) {
  const int64_t kv_heads = input.k.size(0), tokens = input.k.size(1), head_dim = input.k.size(2);
  const int64_t group = input.q.size(0) / kv_heads;
  const auto num_queries = static_cast<int64_t>(positions.size());
  QuerySet queries;
  queries.layer = input.layer;
  queries.k = input.k;
  queries.v = input.v;
  queries.positions = ToDevice({positions.begin(), positions.end()}, input.k.device());
  queries.q = input.q.index_select(1, queries.positions).view({kv_heads, group, num_queries, head_dim});
  const at::Tensor q = queries.q.to(at::kFloat).reshape({kv_heads, group * num_queries, head_dim});
  queries.logits = at::matmul(q, input.k.to(at::kFloat).transpose(1, 2))
                       .view({kv_heads, group, num_queries, tokens})
                       .mul_(1 / std::sqrt(static_cast<double>(head_dim)));
  const at::Tensor token = at::arange(tokens, queries.positions.options());
  queries.logits.masked_fill_(token > queries.positions.unsqueeze(-1), kMinusInfinity);
  queries.probs = at::softmax(queries.logits, -1);
  SetBudget(budget, &queries);
  return queries;
}

void SetBudget(const kernels::Budget& budget, QuerySet* queries) {
  const at::Tensor positions = queries->positions.cpu();
  std::vector<int64_t> num_select(positions.numel());
  for (size_t n = 0; n < num_select.size(); ++n) {
    num_select[n] = kernels::NumSelected(budget, static_cast<int32_t>(positions.data_ptr<int64_t>()[n] + 1));
  }
  queries->num_select = ToDevice(num_select, queries->k.device());
  const at::Tensor token = at::arange(queries->k.size(1), queries->positions.options());
  const at::Tensor position = queries->positions.unsqueeze(-1);
  queries->candidates = (token >= budget.sink_tokens)
                            .logical_and(token <= position - budget.recent_tokens)
                            .logical_and_(queries->num_select.unsqueeze(-1) > 0);
  queries->always = (token <= position).logical_and_(~queries->candidates);
}

int64_t NumQueriesWithin(int64_t bytes, int64_t num_q_heads, int64_t num_tokens) {
  const int64_t bytes_per_query = kFloatsPerQueryHeadAndToken * int64_t{sizeof(float)} * num_q_heads * num_tokens;
  return std::max<int64_t>(1, bytes / bytes_per_query);
}

at::Tensor AttendToSelected(const QuerySet& queries, const Selection& selection) {
  at::Tensor logits = queries.logits.masked_fill(~(selection.mask | queries.always), kMinusInfinity);
  if (selection.logit_offset.defined()) logits += selection.logit_offset.masked_fill(~selection.mask, 0);
  const at::Tensor weights = at::softmax(logits, -1);
  const int64_t kv_heads = weights.size(0), group = weights.size(1), num_queries = weights.size(2);
  return at::matmul(weights.view({kv_heads, group * num_queries, -1}), queries.v.to(at::kFloat))
      .view({kv_heads, group, num_queries, -1});
}

}  // namespace spotlight::training
