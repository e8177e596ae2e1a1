// One attention layer of a model on the device: hash encoders and a pool of pages, filled as a server fills them, by
// EncodeAndAppend in prefill chunks of random keys and values. Sequences are views of the pool: runs of a shuffled list
// of pages.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/encode_and_append.h"
#include "kernels/layout.h"

namespace spotlight::benchmarks {

struct Shape {
  std::string name;
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;

  int32_t group() const { return num_q_heads / num_kv_heads; }
};

// bf16, the default hash: W = 4 words, J = 4 planes, asymmetric.
class DeviceLayer {
 public:
  static constexpr int32_t kHashWords = 4, kNumPlanes = 4;
  static constexpr int32_t kChunkTokens = 16384;  // of a prefill call

  // Pages for `num_tokens` (a multiple of the page size), empty.
  DeviceLayer(const Shape& shape, int64_t num_tokens);

  // Random keys and values everywhere. `encode_codes`: codes by the hash of the keys; otherwise the codes are random
  // bits, which takes less time and gives scores of the same distribution, independent of the keys.
  void Fill(bool encode_codes);

  // Overwrites tokens [begin, begin + count) of the sequence that owns the whole pool with keys that lean towards
  // `direction` [Hkv, D] of a query at `position`.
  void FillCluster(int64_t begin, int64_t count, const at::Tensor& direction, int32_t position);

  // Parameters of one call that appends `slots` [T] with pre-RoPE q [T, Hq, D], k and v [T, Hkv, D]. The tensors must
  // outlive the call's work.
  kernels::EncodeAndAppendParams EncodeParams(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              const at::Tensor& positions, const at::Tensor& slots,
                                              const at::Tensor& q_out) const;

  // [rows, pages of a row] int32: sequence r owns pages [r * n, (r + 1) * n) of the shuffled list.
  at::Tensor PageTable(int64_t num_rows, int64_t tokens_per_row) const;
  // Slot of each token [tokens] of the sequence that owns the whole pool, int64.
  at::Tensor Slots(int64_t begin, int64_t count) const;

  const Shape& shape() const { return shape_; }
  const kernels::LayerPages& pages() const { return pages_; }
  // The encoders with every pointer to host memory, which `kept` holds.
  kernels::HashWeights HostHash(std::vector<at::Tensor>* kept) const;
  const at::Tensor& inv_freq() const { return inv_freq_; }
  const at::Tensor& kv() const { return kv_; }        // [pages, Hkv, P, 2, D]
  const at::Tensor& codes() const { return codes_; }  // [pages, Hkv, P, W] int32
  size_t key_weight_bytes() const { return key_weight_bytes_; }
  size_t query_weight_bytes() const { return query_weight_bytes_; }

 private:
  void MakeEncoders();
  const void* Keep(const at::Tensor& weights);
  void Append(int64_t begin, const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions, bool encode_codes);

  const Shape shape_;
  int64_t num_pages_ = 0;
  at::Tensor kv_, codes_, prefix_, order_, inv_freq_;
  std::vector<at::Tensor> weights_;
  kernels::HashWeights hash_;
  kernels::LayerPages pages_;
  size_t key_weight_bytes_ = 0, query_weight_bytes_ = 0;
};

}  // namespace spotlight::benchmarks
