#include "benchmarks/kernels/full_attention.h"

#include <ATen/Context.h>
#include <ATen/SDPBackend.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>

#include "benchmarks/kernels/failure.h"

namespace spotlight::benchmarks {
namespace {

constexpr int64_t kHidden = 3584, kIntermediate = 18944;  // Qwen2.5-7B

// Leaves cuDNN as the only choice, so that anything it cannot do is an error.
void AllowCudnnOnly() {
  at::Context& context = at::globalContext();
  context.setSDPUseCuDNN(true);
  context.setSDPUseFlash(false);
  context.setSDPUseMemEfficient(false);
  context.setSDPUseMath(false);
}

}  // namespace

at::Tensor CudnnAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool is_causal, double scale) {
  AllowCudnnOnly();
  const int64_t choice = at::_fused_sdp_choice(q, k, v, {}, 0.0, is_causal, scale, true);
  if (choice != static_cast<int64_t>(at::SDPBackend::cudnn_attention)) {
    Fail("the anchor would not run cuDNN's attention: LibTorch chose backend " + std::to_string(choice));
  }
  return at::scaled_dot_product_attention(q, k, v, {}, 0.0, is_causal, scale, true);
}

FullAttention::FullAttention(const DecodeStep& step, KeyOrder order) : step_(step) {
  const Shape& shape = step.layer().shape();
  const int64_t rows = step.num_rows(), heads = shape.num_kv_heads;
  const at::Tensor pages = step.layer().kv().index_select(0, step.page_table().view({-1}));
  // [B, pages, Hkv, P, D] -> tokens and heads in the wanted order, without a sequence's unused slots.
  const auto contiguous = [&](int64_t which) {
    at::Tensor x = pages.select(3, which).view({rows, -1, heads, kernels::kPageTokens, shape.head_dim});
    if (order == KeyOrder::kHeadMajor) {
      x = x.permute({0, 2, 1, 3, 4}).reshape({rows, heads, -1, shape.head_dim});
      return x.slice(2, 0, step.context_len()).contiguous();
    }
    x = x.permute({0, 1, 3, 2, 4}).reshape({rows, -1, heads, shape.head_dim});
    return x.slice(1, 0, step.context_len()).contiguous().transpose(1, 2);
  };
  k_ = contiguous(0);
  v_ = contiguous(1);
  q_ = step.q().view({rows, shape.num_q_heads, 1, shape.head_dim});
}

void FullAttention::Run() {
  out_ = CudnnAttention(q_, k_, v_, false, step_.softmax_scale());
}

PrefillLayer::PrefillLayer(const Shape& shape, int64_t num_tokens) {
  const auto random = [](at::IntArrayRef size) {
    return at::randn(size, at::device(at::kCUDA).dtype(at::kBFloat16)) * 0.02;
  };
  hidden_ = random({num_tokens, kHidden});
  intermediate_ = random({num_tokens, kIntermediate});
  qkv_weight_ = random({kHidden, int64_t{shape.num_q_heads + 2 * shape.num_kv_heads} * shape.head_dim});
  out_weight_ = random({kHidden, kHidden});
  gate_up_weight_ = random({kHidden, 2 * kIntermediate});
  down_weight_ = random({kIntermediate, kHidden});
  q_ = random({1, shape.num_q_heads, num_tokens, shape.head_dim});
  k_ = random({1, shape.num_kv_heads, num_tokens, shape.head_dim});
  v_ = random({1, shape.num_kv_heads, num_tokens, shape.head_dim});
}

void PrefillLayer::Run() {
  at::matmul(hidden_, qkv_weight_);
  CudnnAttention(q_, k_, v_, true, 1 / std::sqrt(static_cast<double>(q_.size(3))));
  at::matmul(hidden_, out_weight_);
  at::matmul(hidden_, gate_up_weight_);
  at::matmul(intermediate_, down_weight_);
}

std::string CudnnVersion() {
  const int64_t version = at::detail::getCUDAHooks().versionCuDNN();
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace spotlight::benchmarks
