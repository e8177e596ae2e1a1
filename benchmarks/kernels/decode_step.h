// One decode step of a batch of equal sequences in a DeviceLayer: its tensors, and the operations to time.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

#include "benchmarks/kernels/device_layer.h"
#include "kernels/dense_decode.h"
#include "kernels/sparse_decode.h"

namespace spotlight::benchmarks {

class DecodeStep {
 public:
  // The sequences' last token is the one that the step appends. `layer` must outlive this.
  DecodeStep(const DeviceLayer& layer, int32_t num_rows, int32_t context_len);

  // Each enqueues on LibTorch's current stream. SparseAttention is EncodeAndAppend, then SparseDecode that begins while
  // it runs.
  void Encode();
  void Sparse(bool prefilter);
  void SparseAttention(bool prefilter);
  void Dense();

  // SparseAttention with the selection written out: [B, Hkv, K] int32.
  at::Tensor SparseAttentionSelecting(bool prefilter);

  // What an operation must read: a cache of codes once, and keys and values of the attended tokens. With the prefilter:
  // word 0 of every code and one 32-byte sector for each survivor's code.
  size_t SparseBytes(bool prefilter) const;
  size_t DenseBytes() const;
  // Encoder weights, and the rows in and out.
  size_t EncodeBytes() const;

  // Mean pre-RoPE query of each group, of length sqrt(D), row 0: what a cluster of keys may lean towards. [Hkv, D]
  at::Tensor MeanQuery() const;

  const DeviceLayer& layer() const { return layer_; }
  int32_t num_rows() const { return num_rows_; }
  int32_t context_len() const { return context_len_; }
  int32_t num_select() const { return num_select_; }
  double softmax_scale() const;
  const at::Tensor& q() const { return q_; }                    // rotated [B, Hq, D]
  const at::Tensor& planes() const { return planes_; }          // [B, Hkv, J, W] int32
  const at::Tensor& page_table() const { return page_table_; }  // [B, pages]
  at::Tensor& out() { return out_; }                            // [B, Hq, D]

 private:
  kernels::SparseDecodeParams SparseParams(bool prefilter) const;
  void* stream() const;

  const DeviceLayer& layer_;
  const int32_t num_rows_, context_len_, num_select_;
  at::Tensor q_in_, k_in_, v_in_, positions_, slots_;
  at::Tensor q_, planes_, plane_unit_, page_table_, context_lens_, num_selects_, out_;
  at::Tensor sparse_workspace_, dense_workspace_;
};

}  // namespace spotlight::benchmarks
