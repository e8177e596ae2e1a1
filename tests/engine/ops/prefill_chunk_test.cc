// A prompt's chunk in half precision, of any length after any past, against softmax in fp32 over the cache's keys and
// values: on a GPU some tokens are read in place and others gathered for a library.
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/ops/spotlight_attention.h"
#include "tests/testing/step_tensors.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kTestDevice = at::kCUDA;
#else
constexpr at::DeviceType kTestDevice = at::kCPU;
#endif

constexpr int32_t kP = kernels::kPageTokens;
constexpr int32_t kQHeads = 6, kKvHeads = 2, kDim = 64;
constexpr double kBound = 5e-3;  // relative, of a token and head: outputs are rounded to bf16

struct Case {
  int32_t past, tokens;
};

class PrefillChunkTest : public ::testing::TestWithParam<Case> {};

TEST_P(PrefillChunkTest, AttendsToThePastAndCausallyToItself) {
  const c10::InferenceMode no_autograd;
  const auto [past, tokens] = GetParam();
  const int32_t context = past + tokens, pages = (context + kP - 1) / kP;
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(kTestDevice);
  auto cache = KvCache::Create({1, kKvHeads, kDim, 0, {}}, pages, at::kBFloat16, kTestDevice);
  ASSERT_TRUE(cache.ok()) << cache.status();
  AttentionOptions attention_options;
  attention_options.max_chunk_tokens = tokens;
  attention_options.max_context = context;
  // No rotation, so that the queries are known here.
  auto attention =
      SpotlightAttention::Create({kQHeads, kKvHeads, kDim}, attention_options, std::vector<float>(kDim / 2, 0.0f), 1.0f,
                                 &*cache, at::kBFloat16, kTestDevice);
  ASSERT_TRUE(attention.ok()) << attention.status();
  at::Tensor kv = cache->kv(0);
  kv.copy_(at::randn(kv.sizes(), options));

  Batch batch;
  batch.num_rows = 1;
  batch.token_ids.assign(tokens, 7);
  batch.query_begin = {0, tokens};
  batch.context_len = {context};
  batch.num_select = {0};
  batch.max_pages = pages;
  for (int32_t page = 0; page < pages; ++page) batch.page_table.push_back(pages - 1 - page);
  for (int32_t position = past; position < context; ++position) {
    batch.positions.push_back(position);
    batch.slots.push_back(int64_t{batch.page_table[position / kP]} * kP + position % kP);
  }
  const StepTensors step = testing::StepTensorsOf(batch, at::Device(kTestDevice));
  const at::Tensor qkv = at::randn({tokens, (kQHeads + 2 * kKvHeads) * kDim}, options);
  auto out = attention->Forward(0, qkv, /*hash=*/nullptr, step, /*seconds=*/nullptr);
  ASSERT_TRUE(out.ok()) << out.status();

  // [2, Hkv, S, D], the pages in the sequence's order.
  const at::Tensor cached = kv.flip(0).permute({3, 1, 0, 2, 4}).reshape({2, kKvHeads, int64_t{pages} * kP, kDim});
  const at::Tensor seen = cached.narrow(2, 0, context).to(at::kFloat);
  const at::Tensor own = qkv.narrow(1, kQHeads * kDim, kKvHeads * kDim).view({tokens, kKvHeads, kDim}).to(at::kFloat);
  ASSERT_TRUE(seen[0].narrow(1, past, tokens).equal(own.transpose(0, 1))) << "the chunk's keys are in the cache";
  const at::Tensor q = qkv.narrow(1, 0, kQHeads * kDim).view({tokens, kKvHeads, kQHeads / kKvHeads, kDim});
  const at::Tensor position = at::arange(context, options.dtype(at::kInt));
  const at::Tensor hidden = position.unsqueeze(0).ge(step.token_context.unsqueeze(1));  // [T, S]
  double worst = 0;
  for (int64_t head = 0; head < kQHeads; ++head) {
    const int64_t kv_head = head / (kQHeads / kKvHeads);
    const at::Tensor queries = q.select(1, kv_head).select(1, head % (kQHeads / kKvHeads)).to(at::kFloat);
    const at::Tensor logits = queries.matmul(seen[0][kv_head].t()).div_(std::sqrt(double{kDim}));
    const at::Tensor weights = logits.masked_fill(hidden, -std::numeric_limits<float>::infinity()).softmax(1);
    const at::Tensor expected = weights.matmul(seen[1][kv_head]);
    const at::Tensor got = out->view({tokens, kQHeads, kDim}).select(1, head).to(at::kFloat);
    worst = std::max(worst, got.sub(expected).norm(2, 1).div(expected.norm(2, 1)).max().item().toDouble());
  }
  EXPECT_LT(worst, kBound);
}

// Less than a block: in pieces, over the ends of blocks. More: with and without something before and after the blocks.
INSTANTIATE_TEST_SUITE_P(, PrefillChunkTest,
                         ::testing::Values(Case{0, 129}, Case{0, 1023}, Case{100, 700}, Case{960, 257}, Case{1024, 999},
                                           Case{0, 1024}, Case{1024, 1100}, Case{900, 1200}, Case{500, 1040}),
                         [](const auto& info) {
                           return std::to_string(info.param.tokens) + "After" + std::to_string(info.param.past);
                         });

}  // namespace
}  // namespace spotlight::engine
