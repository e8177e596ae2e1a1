#include "engine/ops/prefill_attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

using kernels::kPageTokens;

// One query head at a time, in double, from the cache's own rounded values.
at::Tensor Reference(const at::Tensor& q, const at::Tensor& kv, const std::vector<int32_t>& pages, int64_t context) {
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2), group = heads / kv.size(1);
  at::Tensor out = at::zeros({tokens, heads, dim}, at::kDouble);
  for (int64_t h = 0; h < heads; ++h) {
    std::vector<at::Tensor> rows;
    for (int64_t s = 0; s < context; ++s) rows.push_back(kv[pages[s / kPageTokens]][h / group][s % kPageTokens]);
    const at::Tensor all = at::stack(rows).to(at::kDouble);  // [S, 2, D]
    at::Tensor logits = at::matmul(q.select(1, h).to(at::kDouble), all.select(1, 0).t()) / std::sqrt(double(dim));
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t visible = context - tokens + t + 1;
      if (visible < context) {
        logits[t].narrow(0, visible, context - visible).fill_(-std::numeric_limits<double>::infinity());
      }
    }
    out.select(1, h).copy_(at::matmul(at::softmax(logits, -1), all.select(1, 1)));
  }
  return out;
}

// (prompt tokens before the chunk, chunk tokens, query heads, KV heads)
class PrefillAttentionTest : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

TEST_P(PrefillAttentionTest, EqualsTheReferenceWhateverThePast) {
  const c10::InferenceMode no_autograd;
  const auto [past, tokens, q_heads, kv_heads] = GetParam();
  at::manual_seed(7);
  const std::vector<int32_t> pages = {3, 0, 5, 2, 4, 1};
  const at::Tensor q = at::randn({tokens, q_heads, 64}).to(at::kBFloat16);
  const at::Tensor kv = at::randn({6, kv_heads, kPageTokens, 2, 64}).to(at::kBFloat16);
  const at::Tensor out =
      PrefillAttention(q, kv, at::tensor(pages, at::kInt), past + tokens, 1.0 / std::sqrt(64.0)).to(at::kDouble);
  const at::Tensor expected = Reference(q, kv, pages, past + tokens);
  EXPECT_LT(((out - expected).norm() / expected.norm()).item<double>(), 5e-3);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefillAttentionTest,
                         testing::Values(std::make_tuple(0, 1, 3, 1), std::make_tuple(0, 70, 3, 1),
                                         std::make_tuple(1, 63, 4, 2), std::make_tuple(64, 64, 7, 1),
                                         std::make_tuple(130, 97, 9, 3), std::make_tuple(320, 64, 3, 3)));

}  // namespace
}  // namespace spotlight::engine
