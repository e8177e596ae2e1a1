// Prefill's attention against softmax in double over the cache's own rounded values: on the CPU, and on a GPU, where
// TEST_ON_CUDA is defined.
#include "engine/ops/prefill_attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/softmax.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

using kernels::kPageTokens;

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kDevice = at::kCUDA;
#else
constexpr at::DeviceType kDevice = at::kCPU;
#endif

struct Case {
  int64_t past, tokens, q_heads, kv_heads, head_dim;
  at::ScalarType dtype;
  PrefillBlocks blocks;
};

at::Tensor Reference(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& pages, int64_t context) {
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2), group = heads / kv.size(1);
  const at::Tensor all = at::index_select(kv, 0, pages)
                             .permute({3, 1, 0, 2, 4})
                             .reshape({2, kv.size(1), -1, dim})
                             .narrow(2, 0, context)
                             .to(at::kDouble);
  const at::Tensor key = at::arange(context, q.options().dtype(at::kLong));
  const at::Tensor hidden =
      key.unsqueeze(0) > (at::arange(tokens, q.options().dtype(at::kLong)) + (context - tokens)).unsqueeze(1);
  at::Tensor out = at::empty({tokens, heads, dim}, q.options().dtype(at::kDouble));
  for (int64_t h = 0; h < heads; ++h) {
    at::Tensor logits = at::matmul(q.select(1, h).to(at::kDouble), all[0][h / group].t()) / std::sqrt(double(dim));
    logits.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
    out.select(1, h).copy_(at::matmul(at::softmax(logits, -1), all[1][h / group]));
  }
  return out;
}

class PrefillAttentionTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    at::manual_seed(7);
    const Case& c = GetParam();
    context_ = c.past + c.tokens;
    const auto options = at::TensorOptions().device(kDevice);
    const int64_t pages = (context_ + kPageTokens - 1) / kPageTokens;
    // Sharp attention, and values far from 0: a part that is lost or weighed wrongly shows.
    q_ = (2 * at::randn({c.tokens, c.q_heads, c.head_dim}, options)).to(c.dtype);
    kv_ = (1 + at::randn({pages + 3, c.kv_heads, kPageTokens, 2, c.head_dim}, options)).to(c.dtype);
    page_table_ = at::randperm(pages + 3, options.dtype(at::kLong)).narrow(0, 0, pages).to(at::kInt).contiguous();
    // What no token owns may hold anything.
    if (context_ % kPageTokens != 0) {
      kv_.select(0, page_table_[pages - 1].item<int32_t>())
          .narrow(1, context_ % kPageTokens, kPageTokens - context_ % kPageTokens)
          .fill_(std::numeric_limits<float>::quiet_NaN());
    }
    expected_ = Reference(q_, kv_, page_table_, context_);
  }

  double Error(const PrefillBlocks& blocks) const {
    const c10::InferenceMode no_autograd;
    const at::Tensor out = at::empty(q_.sizes(), q_.options());
    const absl::Status status =
        PrefillAttention(q_, kv_, kv_scale_, page_table_, context_, 1.0 / std::sqrt(double(q_.size(2))), blocks, out);
    EXPECT_TRUE(status.ok()) << status;
    return ((out.to(at::kDouble) - expected_).norm() / expected_.norm()).item<double>();
  }

  int64_t context_ = 0;
  at::Tensor q_, kv_, kv_scale_, page_table_, expected_;
};

TEST_P(PrefillAttentionTest, EqualsTheReferenceInPartsAndInOne) {
  const double in_parts = Error(GetParam().blocks);
  EXPECT_LT(in_parts, 5e-3);
  PrefillBlocks one;  // no block: flash attention over everything at once
  one.unit = one.max_queries = one.max_keys = 1 << 20;
  const double at_once = Error(one);
  EXPECT_LT(at_once, 5e-3);
  EXPECT_LT(in_parts, 1.5 * at_once + 1e-4);
}

// What no token owns has a scale of NaN.
TEST_P(PrefillAttentionTest, ReadsE4m3) {
  if (GetParam().dtype != at::kBFloat16) GTEST_SKIP() << "such a cache is beside bf16";
  const at::Tensor values = kv_.to(at::kFloat);
  kv_scale_ = std::get<0>(values.abs().max(-1)) / 448;
  kv_ = (values / kv_scale_.unsqueeze(-1)).to(at::kFloat8_e4m3fn);
  expected_ = Reference(q_, kv_.to(at::kDouble) * kv_scale_.to(at::kDouble).unsqueeze(-1), page_table_, context_);
  EXPECT_LT(Error(GetParam().blocks), 5e-3);
}

constexpr PrefillBlocks kSmall{64, 128, 256};

INSTANTIATE_TEST_SUITE_P(
    Shapes, PrefillAttentionTest,
    testing::Values(Case{0, 1, 3, 1, 64, at::kBFloat16, kSmall}, Case{0, 70, 3, 1, 64, at::kBFloat16, kSmall},
                    Case{1, 63, 4, 2, 128, at::kBFloat16, kSmall}, Case{64, 64, 7, 1, 64, at::kBFloat16, kSmall},
                    Case{130, 97, 9, 3, 64, at::kBFloat16, kSmall}, Case{320, 64, 3, 3, 128, at::kBFloat16, kSmall},
                    Case{1029, 333, 4, 2, 64, at::kBFloat16, kSmall}, Case{2500, 3, 4, 1, 64, at::kBFloat16, kSmall}));

#ifdef TEST_ON_CUDA
INSTANTIATE_TEST_SUITE_P(
    Blocks, PrefillAttentionTest,
    testing::Values(Case{0, 2048, 28, 4, 128, at::kBFloat16, {}}, Case{3072, 4096, 28, 4, 128, at::kBFloat16, {}},
                    Case{3072, 4096, 9, 3, 64, at::kHalf, {}}, Case{5000, 3000, 8, 1, 128, at::kHalf, {}},
                    Case{7168, 1024, 8, 8, 64, at::kBFloat16, {}}, Case{0, 5555, 14, 2, 64, at::kBFloat16, {}},
                    Case{9216, 1024, 28, 4, 128, at::kBFloat16, {1024, 1024, 1024}}));
#endif

}  // namespace
}  // namespace spotlight::engine
