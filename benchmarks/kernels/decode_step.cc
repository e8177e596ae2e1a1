#include "benchmarks/kernels/decode_step.h"

#include <ATen/cuda/CUDAContext.h>

#include <algorithm>
#include <cmath>

#include "benchmarks/kernels/failure.h"
#include "kernels/budget.h"

namespace spotlight::benchmarks {
namespace {

constexpr int64_t kSectorBytes = 32;  // the least that the device's memory gives

at::TensorOptions Cuda(at::ScalarType dtype) {
  return at::device(at::kCUDA).dtype(dtype);
}

}  // namespace

DecodeStep::DecodeStep(const DeviceLayer& layer, int32_t num_rows, int32_t context_len)
    : layer_(layer),
      num_rows_(num_rows),
      context_len_(context_len),
      num_select_(kernels::NumSelected(kernels::Budget(), context_len)) {
  const Shape& shape = layer.shape();
  q_in_ = at::randn({num_rows, shape.num_q_heads, shape.head_dim}, Cuda(at::kBFloat16));
  k_in_ = at::randn({num_rows, shape.num_kv_heads, shape.head_dim}, Cuda(at::kBFloat16));
  v_in_ = at::randn_like(k_in_);
  q_ = at::empty_like(q_in_);
  out_ = at::empty_like(q_in_);
  planes_ = at::empty({num_rows, shape.num_kv_heads, DeviceLayer::kNumPlanes, DeviceLayer::kHashWords}, Cuda(at::kInt));
  plane_unit_ = at::empty({num_rows, shape.num_kv_heads}, Cuda(at::kFloat));
  page_table_ = layer.PageTable(num_rows, context_len);
  context_lens_ = at::full({num_rows}, context_len, Cuda(at::kInt));
  positions_ = context_lens_ - 1;
  num_selects_ = at::full({num_rows}, num_select_, Cuda(at::kInt));
  const int64_t last = context_len - 1;
  slots_ = page_table_.select(1, last / kernels::kPageTokens).to(at::kLong) * kernels::kPageTokens +
           last % kernels::kPageTokens;
  const auto workspace = [](size_t bytes) { return at::zeros({static_cast<int64_t>(bytes)}, Cuda(at::kByte)); };
  sparse_workspace_ = workspace(kernels::SparseDecodeWorkspaceBytes(
      kernels::DeviceKind::kCuda, num_rows, context_len, shape.num_q_heads, shape.num_kv_heads, shape.head_dim));
  dense_workspace_ = workspace(kernels::DenseDecodeWorkspaceBytes(
      kernels::DeviceKind::kCuda, num_rows, context_len, shape.num_q_heads, shape.num_kv_heads, shape.head_dim));
}

double DecodeStep::softmax_scale() const {
  return 1 / std::sqrt(static_cast<double>(layer_.shape().head_dim));
}

void* DecodeStep::stream() const {
  return at::cuda::getCurrentCUDAStream().stream();
}

void DecodeStep::Encode() {
  kernels::EncodeAndAppendParams params = layer_.EncodeParams(q_in_, k_in_, v_in_, positions_, slots_, q_);
  params.num_plane_tokens = num_rows_;
  params.planes = reinterpret_cast<uint32_t*>(planes_.data_ptr());
  params.plane_unit = plane_unit_.data_ptr<float>();
  Check(kernels::EncodeAndAppend(params));
}

kernels::SparseDecodeParams DecodeStep::SparseParams(bool prefilter) const {
  const Shape& shape = layer_.shape();
  kernels::SparseDecodeParams params;
  params.execution.device = kernels::DeviceKind::kCuda;
  params.execution.stream = stream();
  params.dtype = kernels::DType::kBF16;
  params.num_rows = num_rows_;
  params.num_q_heads = shape.num_q_heads;
  params.num_kv_heads = shape.num_kv_heads;
  params.head_dim = shape.head_dim;
  params.hash_words = DeviceLayer::kHashWords;
  params.num_planes = DeviceLayer::kNumPlanes;
  params.top_plane_weight = 1 << (DeviceLayer::kNumPlanes - 1);
  params.softmax_scale = static_cast<float>(softmax_scale());
  params.prefilter = prefilter;
  params.q = q_.data_ptr();
  params.planes = reinterpret_cast<const uint32_t*>(planes_.data_ptr());
  params.pages = layer_.pages();
  params.page_table = page_table_.data_ptr<int32_t>();
  params.max_pages = static_cast<int32_t>(page_table_.size(1));
  params.context_len = context_lens_.data_ptr<int32_t>();
  params.num_select = num_selects_.data_ptr<int32_t>();
  params.max_context = context_len_;
  params.out = out_.data_ptr();
  params.workspace = sparse_workspace_.data_ptr();
  params.workspace_bytes = sparse_workspace_.nbytes();
  return params;
}

void DecodeStep::Sparse(bool prefilter) {
  Check(kernels::SparseDecode(SparseParams(prefilter)));
}

void DecodeStep::SparseAttention(bool prefilter) {
  Encode();
  kernels::SparseDecodeParams params = SparseParams(prefilter);
  params.overlap_encode = true;
  Check(kernels::SparseDecode(params));
}

at::Tensor DecodeStep::SparseAttentionSelecting(bool prefilter) {
  const at::Tensor selected = at::full({num_rows_, layer_.shape().num_kv_heads, num_select_}, -2, Cuda(at::kInt));
  Encode();
  kernels::SparseDecodeParams params = SparseParams(prefilter);
  params.overlap_encode = true;
  params.selected = selected.data_ptr<int32_t>();
  params.max_select = num_select_;
  Check(kernels::SparseDecode(params));
  return selected;
}

void DecodeStep::Dense() {
  const Shape& shape = layer_.shape();
  kernels::DenseDecodeParams params;
  params.execution.device = kernels::DeviceKind::kCuda;
  params.execution.stream = stream();
  params.dtype = kernels::DType::kBF16;
  params.num_rows = num_rows_;
  params.num_q_heads = shape.num_q_heads;
  params.num_kv_heads = shape.num_kv_heads;
  params.head_dim = shape.head_dim;
  params.softmax_scale = static_cast<float>(softmax_scale());
  params.q = q_.data_ptr();
  params.pages = layer_.pages();
  params.page_table = page_table_.data_ptr<int32_t>();
  params.max_pages = static_cast<int32_t>(page_table_.size(1));
  params.context_len = context_lens_.data_ptr<int32_t>();
  params.max_context = context_len_;
  params.out = out_.data_ptr();
  params.workspace = dense_workspace_.data_ptr();
  params.workspace_bytes = dense_workspace_.nbytes();
  Check(kernels::DenseDecode(params));
}

size_t DecodeStep::SparseBytes(bool prefilter) const {
  const Shape& shape = layer_.shape();
  const int64_t context = context_len_, selected = num_select_;
  const int64_t attended = selected == 0 ? context : selected + kernels::kSinkTokens + kernels::kRecentTokens;
  const int64_t survivors = std::min(context, kernels::kPrefilterFactor * selected);
  const int64_t codes = prefilter ? 4 * context + kSectorBytes * survivors : 4 * DeviceLayer::kHashWords * context;
  const int64_t token_bytes = 2 * int64_t{shape.head_dim} * 2;  // K and V in bf16
  return int64_t{num_rows_} * shape.num_kv_heads * (codes + attended * token_bytes);
}

size_t DecodeStep::DenseBytes() const {
  const Shape& shape = layer_.shape();
  return int64_t{num_rows_} * shape.num_kv_heads * context_len_ * 2 * shape.head_dim * 2;
}

size_t DecodeStep::EncodeBytes() const {
  const Shape& shape = layer_.shape();
  const int64_t row_elements = 2 * int64_t{shape.num_q_heads + 2 * shape.num_kv_heads} * shape.head_dim;
  return layer_.key_weight_bytes() + layer_.query_weight_bytes() + num_rows_ * row_elements * 2 + planes_.nbytes();
}

at::Tensor DecodeStep::MeanQuery() const {
  const Shape& shape = layer_.shape();
  const at::Tensor groups = q_in_.select(0, 0).view({shape.num_kv_heads, shape.group(), shape.head_dim});
  return groups.to(at::kFloat).mean(1) * std::sqrt(static_cast<double>(shape.group()));
}

}  // namespace spotlight::benchmarks
