#include "training/evaluation/selector.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace spotlight::training {

at::Tensor TopCandidates(const at::Tensor& score, const at::Tensor& candidates, const at::Tensor& num_select) {
  const int64_t most = std::min<int64_t>(num_select.max().item<int64_t>(), score.size(-1));
  const at::Tensor may = candidates.expand_as(score);
  if (most <= 0) return may & false;
  const at::Tensor competing = score.masked_fill(~may, -std::numeric_limits<float>::infinity());
  const at::Tensor highest = std::get<0>(at::topk(competing, most, -1));  // sorted
  // Each row's K-th score, [..., N, 1]. Rows with more room than candidates end at -inf, where every candidate ties.
  const at::Tensor last = (num_select - 1).clamp(0, most - 1).unsqueeze(-1);
  std::vector<int64_t> rows = score.sizes().vec();
  rows.back() = 1;
  const at::Tensor threshold = highest.gather(-1, last.expand(rows));
  const at::Tensor above = competing > threshold;
  const at::Tensor at_threshold = (competing == threshold).logical_and_(may);
  const at::Tensor room = num_select.unsqueeze(-1) - above.sum(-1, /*keepdim=*/true);
  // topk is free to take any of the tied tokens; this takes the lowest.
  return above.logical_or(at_threshold.logical_and(at_threshold.cumsum(-1, at::kInt) <= room))
      .logical_and_(num_select.unsqueeze(-1) > 0);
}

}  // namespace spotlight::training
