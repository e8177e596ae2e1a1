#include "training/attention_targets.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/budget.h"

namespace spotlight::training {

int64_t FirstChoosingPosition() {
  // One candidate more than are selected at least.
  return kernels::kSinkTokens + kernels::kRecentTokens + kernels::kMinSelectedTokens;
}

QuerySites::QuerySites(const std::vector<int64_t>& at, int64_t tokens, at::Device device) {
  const kernels::Budget budget;
  std::vector<int64_t> count;
  for (const int64_t position : at) count.push_back(kernels::NumSelected(budget, static_cast<int32_t>(position + 1)));
  max_select = *std::max_element(count.begin(), count.end());
  positions = at::tensor(at, at::kLong).to(device);
  num_select = at::tensor(count, at::kLong).to(device);
  const at::Tensor token = at::arange(tokens, positions.options());
  visible = token <= positions.unsqueeze(1);
  candidates = (token <= (positions - budget.recent_tokens).unsqueeze(1)).logical_and_(token >= budget.sink_tokens);
}

at::Tensor AttentionWeights(const at::Tensor& q, const at::Tensor& k, const QuerySites& sites) {
  const int64_t units = q.size(0), group = q.size(1), queries = q.size(2), dim = q.size(3);
  const at::Tensor scaled = (q / std::sqrt(static_cast<double>(dim))).reshape({units, group * queries, dim});
  at::Tensor logits = at::bmm(scaled, k.transpose(1, 2)).view({units, group, queries, -1});
  logits.masked_fill_(sites.visible.logical_not(), -std::numeric_limits<double>::infinity());
  return at::softmax(logits, -1);
}

at::Tensor CandidateMass(const at::Tensor& weights, const QuerySites& sites) {
  return weights.sum(1).mul_(sites.candidates);
}

TopTokens FindTopTokens(const at::Tensor& score, const QuerySites& sites) {
  const int64_t tokens = score.size(-1);
  // Integers in the order of (score, -index): floats' bits, those of negative ones turned round.
  const at::Tensor bits = score.to(at::kFloat).contiguous().view(at::kInt);
  at::Tensor key = bits.bitwise_xor(bits.bitwise_right_shift(31).bitwise_and_(0x7fffffff)).to(at::kLong);
  key.bitwise_left_shift_(32).add_(at::arange(tokens - 1, -1, -1, key.options()));
  key.masked_fill_(sites.candidates.logical_not(), std::numeric_limits<int64_t>::min());
  TopTokens top;
  top.index = std::get<1>(at::topk(key, sites.max_select, -1));
  top.valid = at::arange(sites.max_select, key.options()) < sites.num_select.unsqueeze(1);
  return top;
}

at::Tensor TopTokenMask(const at::Tensor& score, const QuerySites& sites) {
  const TopTokens top = FindTopTokens(score, sites);
  at::Tensor mask = at::zeros(score.sizes(), score.options().dtype(at::kBool));
  return mask.scatter_(-1, top.index, top.valid.expand_as(top.index));
}

}  // namespace spotlight::training
