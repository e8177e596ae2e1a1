// The anchor: cuDNN's full attention over the same tokens, through LibTorch's scaled_dot_product_attention with grouped
// heads, keys and values contiguous. Fails the program where that call would not be cuDNN's.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "benchmarks/kernels/decode_step.h"

namespace spotlight::benchmarks {

enum class KeyOrder {
  kHeadMajor,   // [B, Hkv, S, D]
  kTokenMajor,  // [B, S, Hkv, D]
};

class FullAttention {
 public:
  // Copies the step's keys and values out of their pages. `step` must outlive this.
  FullAttention(const DecodeStep& step, KeyOrder order);

  // Enqueues on LibTorch's current stream.
  void Run();
  at::Tensor out() const { return out_; }  // [B, Hq, 1, D]

 private:
  const DecodeStep& step_;
  at::Tensor q_, k_, v_, out_;  // [B, heads, tokens, D], strided as KeyOrder says
};

// cuDNN's attention of q, k, v [B, heads, tokens, D].
at::Tensor CudnnAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool is_causal, double scale);

// What a layer does besides encoding when it prefills `num_tokens` from an empty cache: its four matrix products at
// Qwen2.5-7B's widths, and causal attention of the chunk to itself, the least that any chunk needs.
class PrefillLayer {
 public:
  PrefillLayer(const Shape& shape, int64_t num_tokens);
  void Run();

 private:
  at::Tensor hidden_, intermediate_, qkv_weight_, out_weight_, gate_up_weight_, down_weight_, q_, k_, v_;
};

std::string CudnnVersion();

}  // namespace spotlight::benchmarks
