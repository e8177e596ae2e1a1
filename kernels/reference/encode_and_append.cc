#include "kernels/reference/encode_and_append.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::reference {
namespace {

double BiasAt(const void* bias, DType dtype, int64_t index) {
  return bias == nullptr ? 0.0 : double{LoadElement(bias, dtype, index)};
}

// x [in] times matrix `head` of weights [Hkv, in, out].
std::vector<double> MatVec(const std::vector<double>& x, const void* weights, DType dtype, int64_t head, int64_t out) {
  std::vector<double> y(out, 0.0);
  const int64_t begin = head * static_cast<int64_t>(x.size()) * out;
  for (size_t i = 0; i < x.size(); ++i) {
    for (int64_t o = 0; o < out; ++o) y[o] += x[i] * double{LoadElement(weights, dtype, begin + i * out + o)};
  }
  return y;
}

// Head `head` of token `token`: bias added, rotated, rounded to dtype once.
std::vector<double> Rotated(const EncodeAndAppendParams& params, const void* x, int64_t stride, const void* bias,
                            int64_t token, int64_t head) {
  const int64_t half = params.head_dim / 2, begin = head * params.head_dim;
  std::vector<double> out(params.head_dim);
  const auto at = [&](int64_t d) {
    return double{LoadElement(x, params.dtype, token * stride + begin + d)} + BiasAt(bias, params.dtype, begin + d);
  };
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<float>(params.positions[token]) * params.inv_freq[i];
    const double cosine = std::cos(angle) * params.rope_scale, sine = std::sin(angle) * params.rope_scale;
    out[i] = at(i) * cosine - at(i + half) * sine;
    out[i + half] = at(i + half) * cosine + at(i) * sine;
  }
  return out;
}

// x [dim] becomes the stored values, rounded to dtype.
void StoreE4m3(const LayerPages& pages, DType dtype, int64_t row, std::vector<double>* x) {
  auto* const stored = static_cast<E4m3*>(pages.kv) + row * static_cast<int64_t>(x->size());
  float largest = 0;
  bool finite = true;
  for (double& element : *x) {
    float rounded = 0;  // room for any dtype
    StoreElement(static_cast<float>(element), &rounded, dtype, 0);
    element = LoadElement(&rounded, dtype, 0);
    largest = std::max(largest, std::abs(static_cast<float>(element)));
    finite = finite && std::isfinite(element);
  }
  const float scale = finite ? E4m3Scale(largest) : std::numeric_limits<float>::quiet_NaN();
  pages.kv_scale[row] = scale;
  for (size_t d = 0; d < x->size(); ++d) {
    RoundTo(static_cast<float>((*x)[d]) / scale, stored + d);
    float rounded = 0;
    StoreElement(ToFloat(stored[d]) * scale, &rounded, dtype, 0);
    (*x)[d] = LoadElement(&rounded, dtype, 0);
  }
}

// Stores x rounded to dtype and leaves the stored values in x.
void Store(void* out, DType dtype, int64_t begin, std::vector<double>* x) {
  for (size_t d = 0; d < x->size(); ++d) {
    StoreElement(static_cast<float>((*x)[d]), out, dtype, begin + d);
    (*x)[d] = LoadElement(out, dtype, begin + d);
  }
}

// Row `row` of the pages' keys and values.
void StoreCached(const LayerPages& pages, DType dtype, int64_t row, std::vector<double>* x) {
  if (pages.kv_scale != nullptr) return StoreE4m3(pages, dtype, row, x);
  Store(pages.kv, dtype, row * static_cast<int64_t>(x->size()), x);
}

void WritePlanes(const EncodeAndAppendParams& params, int64_t token, int64_t kv_head, const std::vector<double>& w) {
  const int32_t words = params.hash->hash_words, num_planes = params.hash->num_planes;
  const int64_t entry = token * params.num_kv_heads + kv_head;
  double sum_squares = 0;
  for (const double x : w) sum_squares += x * x;
  const double rms = std::sqrt(sum_squares / w.size());
  const double unit = params.hash->plane_step * (rms < 1e-6 ? 1e-6 : rms);
  params.plane_unit[entry] = static_cast<float>(unit);
  uint32_t* planes = params.planes + entry * num_planes * words;
  std::fill_n(planes, num_planes * words, 0u);
  for (int32_t b = 0; b < 32 * words; ++b) {
    // u = (n + 2^J - 1) / 2 with n = clamp(2 * floor(w / unit) + 1, +-(2^J - 1)); NaN gives 0.
    const double level = std::floor(w[b] / unit) + (1 << (num_planes - 1));
    const double last = (1 << num_planes) - 1;
    const auto u = static_cast<uint32_t>(level > 0 ? std::min(level, last) : 0.0);
    for (int32_t j = 0; j < num_planes; ++j) planes[j * words + b / 32] |= (u >> j & 1u) << b % 32;
  }
}

}  // namespace

std::vector<double> Encode(const EncoderWeights& encoder, DType weight_dtype, int32_t hash_words, int32_t kv_head,
                           const std::vector<double>& x) {
  const int64_t bits = 32 * hash_words;
  std::vector<double> y = MatVec(x, encoder.skip, weight_dtype, kv_head, bits);
  for (int64_t b = 0; b < bits; ++b) y[b] += double{LoadElement(encoder.b2, weight_dtype, kv_head * bits + b)};
  if (encoder.hidden == 0) return y;
  std::vector<double> hidden = MatVec(x, encoder.w1, weight_dtype, kv_head, encoder.hidden);
  for (int64_t i = 0; i < encoder.hidden; ++i) {
    hidden[i] += double{LoadElement(encoder.b1, weight_dtype, int64_t{kv_head} * encoder.hidden + i)};
    hidden[i] /= 1.0 + std::exp(-hidden[i]);
  }
  const std::vector<double> second = MatVec(hidden, encoder.w2, weight_dtype, kv_head, bits);
  for (int64_t b = 0; b < bits; ++b) y[b] += second[b];
  return y;
}

void EncodeAndAppend(const EncodeAndAppendParams& params) {
  const int64_t group = params.num_q_heads / params.num_kv_heads, dim = params.head_dim;
  for (int64_t token = 0; token < params.num_tokens; ++token) {
    const int64_t slot = params.slots[token];
    for (int64_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      std::vector<double> query;
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        std::vector<double> q = Rotated(params, params.q, params.q_stride, params.q_bias, token, head);
        Store(params.q_out, params.dtype, (token * params.num_q_heads + head) * dim, &q);
        query.insert(query.end(), q.begin(), q.end());
      }
      if (params.hash != nullptr && token < params.num_plane_tokens) {
        const HashWeights& hash = *params.hash;
        WritePlanes(params, token, kv_head, Encode(hash.query, hash.weight_dtype, hash.hash_words, kv_head, query));
      }
      if (slot < 0) continue;

      const int64_t entry = (slot / kPageTokens * params.num_kv_heads + kv_head) * kPageTokens + slot % kPageTokens;
      std::vector<double> key = Rotated(params, params.k, params.k_stride, params.k_bias, token, kv_head);
      StoreCached(params.pages, params.dtype, 2 * entry, &key);
      std::vector<double> value(dim);
      for (int64_t d = 0; d < dim; ++d) {
        value[d] = double{LoadElement(params.v, params.dtype, token * params.v_stride + kv_head * dim + d)} +
                   BiasAt(params.v_bias, params.dtype, kv_head * dim + d);
      }
      StoreCached(params.pages, params.dtype, 2 * entry + 1, &value);
      if (params.hash == nullptr) continue;

      const HashWeights& hash = *params.hash;
      const std::vector<double> h = Encode(hash.key, hash.weight_dtype, hash.hash_words, kv_head, key);
      uint32_t* code = params.pages.codes + entry * hash.hash_words;
      std::fill_n(code, hash.hash_words, 0u);
      for (int32_t b = 0; b < 32 * hash.hash_words; ++b) code[b / 32] |= static_cast<uint32_t>(h[b] >= 0) << b % 32;
      params.pages.prefix[entry] = code[0];
    }
  }
}

}  // namespace spotlight::kernels::reference
