#include "training/evaluation/measures.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <vector>

#include "training/evaluation/query_set.h"

namespace spotlight::training {
namespace {

at::Tensor Count(const at::Tensor& mask) {
  return mask.sum(-1).to(at::kFloat);
}

// 1 where both are zero.
at::Tensor Share(const at::Tensor& part, const at::Tensor& whole) {
  return at::where(whole > 0, part / whole, 1.0f);
}

at::Tensor Norm(const at::Tensor& x, at::IntArrayRef dims) {
  return at::linalg_vector_norm(x, 2, dims);
}

// 0 where both are zero; infinite where only `dense` is.
at::Tensor RelativeError(const at::Tensor& difference, const at::Tensor& dense, at::IntArrayRef dims) {
  const at::Tensor error = Norm(difference, dims);
  return at::where(error > 0, error / Norm(dense, dims), 0.0f);
}

}  // namespace

ExactAttention ExactAttentionOf(const QuerySet& queries) {
  ExactAttention exact;
  exact.oracle_a = TopCandidates(queries.logits, queries.candidates, queries.num_select);
  exact.oracle_b = TopCandidates(queries.probs.sum(1, /*keepdim=*/true), queries.candidates, queries.num_select);
  exact.candidate_mass = (queries.probs * queries.candidates).sum(-1);
  exact.always_mass = (queries.probs * queries.always).sum(-1);
  const int64_t kv_heads = queries.probs.size(0), group = queries.probs.size(1), num_queries = queries.probs.size(2);
  exact.output = at::matmul(queries.probs.view({kv_heads, group * num_queries, -1}), queries.v.to(at::kFloat))
                     .view({kv_heads, group, num_queries, -1});
  return exact;
}

at::Tensor MeasureSelection(const QuerySet& queries, const ExactAttention& exact, const Selection& selection) {
  const at::Tensor& mask = selection.mask;
  const at::Tensor selected = Count(mask);  // [Hkv, G or 1, N]
  const at::Tensor in_a = Count(mask & exact.oracle_a), in_b = Count(mask & exact.oracle_b);
  const at::Tensor size_a = Count(exact.oracle_a), size_b = Count(exact.oracle_b);
  const at::Tensor selected_mass = (queries.probs * mask).sum(-1);  // [Hkv, G, N]
  const at::Tensor difference = ExactlyAttendSelected(queries, selection) - exact.output;
  const auto by_group = [](const at::Tensor& by_head) { return by_head.mean(1); };
  // In the order of Measure.
  const std::vector<at::Tensor> values = {
      by_group(Share(in_a, selected + size_a - in_a)),
      by_group(Share(in_b, size_b)),
      by_group(Share(in_b, selected + size_b - in_b)),
      by_group(Share(selected_mass, exact.candidate_mass)),
      by_group(selected_mass + exact.always_mass),
      by_group(RelativeError(difference, exact.output, {-1})),
      Share(selected_mass.sum(1), exact.candidate_mass.sum(1)),
      RelativeError(difference, exact.output, {1, -1}),
      by_group(selected),
  };
  return at::stack(values);
}

}  // namespace spotlight::training
