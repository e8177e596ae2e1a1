#include "benchmarks/kernels/device_layer.h"

#include <ATen/cuda/CUDAContext.h>

#include <algorithm>
#include <cmath>

#include "benchmarks/kernels/failure.h"

namespace spotlight::benchmarks {
namespace {

constexpr int64_t kKeyHidden = 128, kQueryHidden = 256;
constexpr double kRopeTheta = 1e6;

at::TensorOptions BF16() {
  return at::device(at::kCUDA).dtype(at::kBFloat16);
}
at::TensorOptions Float() {
  return at::device(at::kCUDA).dtype(at::kFloat);
}

}  // namespace

DeviceLayer::DeviceLayer(const Shape& shape, int64_t num_tokens)
    : shape_(shape), num_pages_(num_tokens / kernels::kPageTokens) {
  const at::TensorOptions words = at::device(at::kCUDA).dtype(at::kInt);
  kv_ = at::empty({num_pages_, shape_.num_kv_heads, kernels::kPageTokens, 2, shape_.head_dim}, BF16());
  codes_ = at::empty({num_pages_, shape_.num_kv_heads, kernels::kPageTokens, kHashWords}, words);
  prefix_ = at::empty({num_pages_, shape_.num_kv_heads, kernels::kPageTokens}, words);
  order_ = at::randperm(num_pages_, words.dtype(at::kLong)).to(at::kInt);
  inv_freq_ = at::pow(kRopeTheta, at::arange(shape_.head_dim / 2, Float()) * (-2.0 / shape_.head_dim));
  pages_.kv = kv_.data_ptr();
  pages_.codes = reinterpret_cast<uint32_t*>(codes_.data_ptr());
  pages_.prefix = reinterpret_cast<uint32_t*>(prefix_.data_ptr());
  pages_.num_pages = static_cast<int32_t>(num_pages_);
  MakeEncoders();
}

const void* DeviceLayer::Keep(const at::Tensor& weights) {
  weights_.push_back(weights.to(at::kBFloat16).contiguous());
  return weights_.back().data_ptr();
}

// Random, but of a learned hash's kind: the query side shares the key side's linear part, so that scores follow q . k.
void DeviceLayer::MakeEncoders() {
  const int64_t heads = shape_.num_kv_heads, dim = shape_.head_dim, group = shape_.group(), bits = 32 * kHashWords;
  const auto random = [](at::IntArrayRef size, double sigma) { return at::randn(size, Float()) * sigma; };
  const auto encoder = [&](int64_t inputs, int64_t hidden, const at::Tensor& skip) {
    kernels::EncoderWeights weights;
    weights.hidden = static_cast<int32_t>(hidden);
    weights.w1 = Keep(random({heads, inputs, hidden}, 1 / std::sqrt(static_cast<double>(inputs))));
    weights.b1 = Keep(random({heads, hidden}, 0.1));
    weights.w2 = Keep(random({heads, hidden, bits}, 0.3 / std::sqrt(static_cast<double>(hidden))));
    weights.b2 = Keep(random({heads, bits}, 0.02));
    weights.skip = Keep(skip);
    return weights;
  };
  const auto bytes_kept = [this] {
    size_t bytes = 0;
    for (const at::Tensor& weights : weights_) bytes += weights.nbytes();
    return bytes;
  };
  const at::Tensor skip = random({heads, dim, bits}, 1 / std::sqrt(static_cast<double>(dim)));
  hash_.weight_dtype = kernels::DType::kBF16;
  hash_.hash_words = kHashWords;
  hash_.num_planes = kNumPlanes;
  hash_.key = encoder(dim, kKeyHidden, skip);
  key_weight_bytes_ = bytes_kept();
  hash_.query = encoder(group * dim, kQueryHidden, skip.repeat({1, group, 1}) / std::sqrt(static_cast<double>(group)));
  query_weight_bytes_ = bytes_kept() - key_weight_bytes_;
}

kernels::HashWeights DeviceLayer::HostHash(std::vector<at::Tensor>* kept) const {
  kernels::HashWeights hash = hash_;
  const void** const pointers[] = {&hash.key.w1,   &hash.key.b1,   &hash.key.w2,   &hash.key.b2,   &hash.key.skip,
                                   &hash.query.w1, &hash.query.b1, &hash.query.w2, &hash.query.b2, &hash.query.skip};
  for (size_t i = 0; i < weights_.size(); ++i) {
    kept->push_back(weights_[i].to(at::kCPU));
    *pointers[i] = kept->back().data_ptr();
  }
  return hash;
}

kernels::EncodeAndAppendParams DeviceLayer::EncodeParams(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                         const at::Tensor& positions, const at::Tensor& slots,
                                                         const at::Tensor& q_out) const {
  kernels::EncodeAndAppendParams params;
  params.execution.device = kernels::DeviceKind::kCuda;
  params.execution.stream = at::cuda::getCurrentCUDAStream().stream();
  params.dtype = kernels::DType::kBF16;
  params.num_tokens = static_cast<int32_t>(positions.size(0));
  params.num_q_heads = shape_.num_q_heads;
  params.num_kv_heads = shape_.num_kv_heads;
  params.head_dim = shape_.head_dim;
  params.q = q.data_ptr();
  params.k = k.data_ptr();
  params.v = v.data_ptr();
  params.q_stride = int64_t{shape_.num_q_heads} * shape_.head_dim;
  params.k_stride = params.v_stride = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  params.inv_freq = inv_freq_.data_ptr<float>();
  params.positions = positions.data_ptr<int32_t>();
  params.slots = slots.data_ptr<int64_t>();
  params.hash = &hash_;
  params.pages = pages_;
  params.q_out = q_out.data_ptr();
  return params;
}

void DeviceLayer::Append(int64_t begin, const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions,
                         bool encode_codes) {
  const int64_t count = k.size(0);
  const at::Tensor slots = Slots(begin, count);
  const at::Tensor q = at::zeros({count, shape_.num_q_heads, shape_.head_dim}, BF16());
  kernels::EncodeAndAppendParams params = EncodeParams(q, k, v, positions, slots, q);
  if (!encode_codes) params.hash = nullptr;
  Check(kernels::EncodeAndAppend(params));
}

void DeviceLayer::Fill(bool encode_codes) {
  const int64_t num_tokens = num_pages_ * kernels::kPageTokens;
  for (int64_t begin = 0; begin < num_tokens; begin += kChunkTokens) {
    const int64_t count = std::min<int64_t>(kChunkTokens, num_tokens - begin);
    const at::Tensor k = at::randn({count, shape_.num_kv_heads, shape_.head_dim}, BF16());
    const at::Tensor positions = at::arange(begin, begin + count, at::device(at::kCUDA).dtype(at::kInt));
    Append(begin, k, at::randn_like(k), positions, encode_codes);
  }
  if (encode_codes) return;
  codes_.view(at::kShort).random_(-32768, 32768);
  prefix_.copy_(codes_.select(3, 0));
}

void DeviceLayer::FillCluster(int64_t begin, int64_t count, const at::Tensor& direction, int32_t position) {
  for (int64_t chunk = begin; chunk < begin + count; chunk += kChunkTokens) {
    const int64_t size = std::min<int64_t>(kChunkTokens, begin + count - chunk);
    const at::Tensor noise = at::randn({size, shape_.num_kv_heads, shape_.head_dim}, BF16());
    const at::Tensor positions = at::full({size}, position, at::device(at::kCUDA).dtype(at::kInt));
    Append(chunk, noise + direction.to(at::kBFloat16), at::randn_like(noise), positions, true);
  }
}

at::Tensor DeviceLayer::PageTable(int64_t num_rows, int64_t tokens_per_row) const {
  const int64_t pages = (tokens_per_row + kernels::kPageTokens - 1) / kernels::kPageTokens;
  return order_.slice(0, 0, num_rows * pages).view({num_rows, pages}).contiguous();
}

at::Tensor DeviceLayer::Slots(int64_t begin, int64_t count) const {
  const at::Tensor token = at::arange(begin, begin + count, at::device(at::kCUDA).dtype(at::kLong));
  const at::Tensor page = order_.index_select(0, at::div(token, kernels::kPageTokens, "floor")).to(at::kLong);
  return page * kernels::kPageTokens + at::remainder(token, kernels::kPageTokens);
}

}  // namespace spotlight::benchmarks
