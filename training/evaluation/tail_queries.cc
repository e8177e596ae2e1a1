#include "training/evaluation/tail_queries.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <limits>
#include <vector>

namespace spotlight::training {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

at::Tensor NumSelect(const at::Tensor& positions, const kernels::Budget& budget) {
  const at::Tensor on_host = positions.to(at::kCPU, at::kLong).contiguous();
  std::vector<int64_t> num_select(on_host.numel());
  for (size_t i = 0; i < num_select.size(); ++i) {
    num_select[i] = kernels::NumSelected(budget, static_cast<int32_t>(on_host.data_ptr<int64_t>()[i]) + 1);
  }
  return at::tensor(num_select, at::kLong);
}

}  // namespace

QuerySet MakeQuerySet(int32_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& positions, const kernels::Budget& budget) {
  const int64_t kv_heads = k.size(0), group = q.size(0) / kv_heads, count = q.size(1), tokens = k.size(1);
  const int64_t head_dim = q.size(2);
  QuerySet queries;
  queries.layer = layer;
  queries.q = q.reshape({kv_heads, group, count, head_dim});
  queries.k = k;
  queries.v = v;
  queries.positions = positions.to(q.device(), at::kLong);
  queries.num_select = NumSelect(positions, budget).to(q.device());

  const at::Tensor token = at::arange(tokens, queries.positions.options());  // [T]
  const at::Tensor last = queries.positions.unsqueeze(1);                    // [N, 1]
  const at::Tensor seen = token <= last;                                     // [N, T]
  queries.candidates =
      (token >= budget.sink_tokens) & (token <= last - budget.recent_tokens) & (queries.num_select > 0).unsqueeze(1);
  queries.always = seen & queries.candidates.logical_not();

  const at::Tensor rows = queries.q.to(at::kFloat).reshape({kv_heads, group * count, head_dim});
  queries.logits = at::matmul(rows * (1.0 / std::sqrt(static_cast<double>(head_dim))), k.to(at::kFloat).transpose(1, 2))
                       .view({kv_heads, group, count, tokens})
                       .masked_fill_(seen.logical_not(), kMinusInfinity);
  queries.probs = at::softmax(queries.logits, -1);
  return queries;
}

at::Tensor AttendSelected(const QuerySet& queries, const Selection& selection) {
  const at::Tensor attended = selection.mask | queries.always;
  at::Tensor logits = queries.logits;
  if (selection.logit_offset.defined()) {
    logits = at::where(selection.mask, logits + selection.logit_offset, logits);
  }
  const at::Tensor weights = at::softmax(logits.masked_fill(attended.logical_not(), kMinusInfinity), -1);
  const int64_t kv_heads = weights.size(0), rows = weights.size(1) * weights.size(2), tokens = weights.size(3);
  return at::matmul(weights.view({kv_heads, rows, tokens}), queries.v.to(at::kFloat))
      .view({kv_heads * weights.size(1), weights.size(2), queries.v.size(2)})
      .to(queries.q.scalar_type());
}

int64_t QueryBytes(int64_t num_q_heads, int64_t num_kv_heads, int64_t tokens) {
  // Logits, probabilities, masked logits and weights in fp32 by query head; scores, their order (int64) and masks by
  // KV head.
  return tokens * (num_q_heads * 4 * 4 + num_kv_heads * 24);
}

}  // namespace spotlight::training
