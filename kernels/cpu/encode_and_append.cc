#include "kernels/cpu/encode_and_append.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/e4m3_tokens.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/parallel.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// Tokens of one work item: each weight is read from memory once for all of them.
constexpr int64_t kTokenBlock = 16;

struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

class StepEncoder {
 public:
  // cosine, sine [T, D / 2].
  StepEncoder(const EncodeAndAppendParams& params, const KernelTable& kernels, const float* cosine, const float* sine)
      : params_(params),
        kernels_(kernels),
        cosine_(cosine),
        sine_(sine),
        dtype_(static_cast<int>(params.dtype)),
        group_(params.num_q_heads / params.num_kv_heads),
        dim_(params.head_dim) {}

  // Rotates the group's queries; planes for those tokens that want them.
  void Queries(TokenRange tokens, int64_t kv_head) const {
    static thread_local Scratch scratch;
    const int64_t num_inputs = group_ * dim_;
    float* rotated = scratch.Get<float>(kTokenBlock * num_inputs);
    for (int64_t token = tokens.begin; token < tokens.end; ++token) {
      const bool encodes = params_.hash != nullptr && token < params_.num_plane_tokens;
      for (int64_t g = 0; g < group_; ++g) {
        const int64_t head = kv_head * group_ + g;
        float* rounded = encodes ? rotated + (token - tokens.begin) * num_inputs + g * dim_ : nullptr;
        Rotate(params_.q, params_.q_stride, params_.q_bias, token, head,
               At(params_.q_out, (token * params_.num_q_heads + head) * dim_), rounded);
      }
    }
    const TokenRange encoded{tokens.begin, std::min<int64_t>(tokens.end, params_.num_plane_tokens)};
    if (params_.hash == nullptr || encoded.size() <= 0) return;

    const int64_t bits = 32 * params_.hash->hash_words;
    const float* w = Encode(params_.hash->query, kv_head, num_inputs, rotated, encoded.size());
    for (int64_t i = 0; i < encoded.size(); ++i) {
      WritePlanes(w + i * bits, (encoded.begin + i) * params_.num_kv_heads + kv_head);
    }
  }

  // Appends the head's keys, values and codes.
  void Keys(TokenRange tokens, int64_t kv_head) const {
    static thread_local Scratch scratch;
    float* rotated = scratch.Get<float>(kTokenBlock * dim_);
    int64_t entries[kTokenBlock];
    int64_t count = 0;
    for (int64_t token = tokens.begin; token < tokens.end; ++token) {
      const int64_t slot = params_.slots[token];
      if (slot < 0) continue;
      const int64_t entry = (slot / kPageTokens * params_.num_kv_heads + kv_head) * kPageTokens + slot % kPageTokens;
      AppendKeyAndValue(token, kv_head, entry, rotated + count * dim_);
      entries[count++] = entry;
    }
    if (params_.hash == nullptr || count == 0) return;

    const int words = params_.hash->hash_words;
    const float* h = Encode(params_.hash->key, kv_head, dim_, rotated, count);
    for (int64_t i = 0; i < count; ++i) {
      uint32_t* code = params_.pages.codes + entries[i] * words;
      kernels_.pack_signs(h + i * 32 * words, words, code);
      params_.pages.prefix[entries[i]] = code[0];
    }
  }

 private:
  // key [D] out: as stored.
  void AppendKeyAndValue(int64_t token, int64_t kv_head, int64_t entry, float* key) const {
    const LayerPages& pages = params_.pages;
    if (pages.kv_scale == nullptr) {
      Rotate(params_.k, params_.k_stride, params_.k_bias, token, kv_head, At(pages.kv, entry * 2 * dim_), key);
      Append(params_.v, params_.v_stride, params_.v_bias, token, kv_head, At(pages.kv, (entry * 2 + 1) * dim_));
      return;
    }
    alignas(64) float rounded[kMaxHeadDim], value[kMaxHeadDim];  // the first: room for any dtype
    Rotate(params_.k, params_.k_stride, params_.k_bias, token, kv_head, reinterpret_cast<char*>(rounded), key);
    Append(params_.v, params_.v_stride, params_.v_bias, token, kv_head, reinterpret_cast<char*>(rounded), value);
    const auto size = static_cast<int32_t>(dim_);
    char* const stored = static_cast<char*>(pages.kv) + entry * 2 * dim_;
    StoreE4m3Row(params_.dtype, size, key, stored, pages.kv_scale + 2 * entry);
    StoreE4m3Row(params_.dtype, size, value, stored + dim_, pages.kv_scale + 2 * entry + 1);
  }

  char* At(void* data, int64_t element) const { return static_cast<char*>(data) + element * SizeOf(params_.dtype); }
  const char* At(const void* data, int64_t element) const {
    return static_cast<const char*>(data) + element * SizeOf(params_.dtype);
  }

  void Rotate(const void* x, int64_t stride, const void* bias, int64_t token, int64_t head, void* stored,
              float* rounded) const {
    RotateHead work = HeadOf(x, stride, bias, token, head, stored);
    work.cosine = cosine_ + token * dim_ / 2;
    work.sine = sine_ + token * dim_ / 2;
    work.rounded = rounded;
    kernels_.rotate[dtype_](work);
  }

  void Append(const void* x, int64_t stride, const void* bias, int64_t token, int64_t head, void* stored,
              float* rounded = nullptr) const {
    RotateHead work = HeadOf(x, stride, bias, token, head, stored);
    work.rounded = rounded;
    kernels_.rotate[dtype_](work);
  }

  RotateHead HeadOf(const void* x, int64_t stride, const void* bias, int64_t token, int64_t head, void* stored) const {
    RotateHead work;
    work.x = At(x, token * stride + head * dim_);
    work.bias = bias == nullptr ? nullptr : At(bias, head * dim_);
    work.head_dim = static_cast<int>(dim_);
    work.stored = stored;
    return work;
  }

  // y[t] += x[t] W, where W is matrix `kv_head` of weights [Hkv, num_inputs, num_outputs].
  void Multiply(const void* weights, int64_t kv_head, const float* x, int64_t num_inputs, int64_t num_outputs,
                int64_t num_tokens, float* y) const {
    const DType dtype = params_.hash->weight_dtype;
    AffineBlock block;
    block.x = x;
    block.num_tokens = static_cast<int>(num_tokens);
    block.num_inputs = static_cast<int>(num_inputs);
    block.num_outputs = static_cast<int>(num_outputs);
    block.weights = static_cast<const char*>(weights) + kv_head * num_inputs * num_outputs * SizeOf(dtype);
    block.y = y;
    kernels_.affine[static_cast<int>(dtype)](block);
  }

  // y[t] = row `kv_head` of bias [Hkv, size].
  void FillBias(const void* bias, int64_t kv_head, int64_t size, int64_t num_tokens, float* y) const {
    const DType dtype = params_.hash->weight_dtype;
    kernels_.load_scaled[static_cast<int>(dtype)](static_cast<const char*>(bias) + kv_head * size * SizeOf(dtype), size,
                                                  1.0f, y);
    for (int64_t t = 1; t < num_tokens; ++t) std::memcpy(y + t * size, y, size * sizeof(float));
  }

  // x [num_tokens, num_inputs] -> [num_tokens, 32 * W], valid until the thread's next call.
  const float* Encode(const EncoderWeights& encoder, int64_t kv_head, int64_t num_inputs, const float* x,
                      int64_t num_tokens) const {
    static thread_local Scratch hidden_scratch, output_scratch;
    const int64_t bits = 32 * params_.hash->hash_words;
    float* y = output_scratch.Get<float>(num_tokens * bits);
    FillBias(encoder.b2, kv_head, bits, num_tokens, y);
    if (encoder.hidden > 0) {
      float* hidden = hidden_scratch.Get<float>(num_tokens * encoder.hidden);
      FillBias(encoder.b1, kv_head, encoder.hidden, num_tokens, hidden);
      Multiply(encoder.w1, kv_head, x, num_inputs, encoder.hidden, num_tokens, hidden);
      kernels_.silu(hidden, num_tokens * encoder.hidden);
      Multiply(encoder.w2, kv_head, hidden, encoder.hidden, bits, num_tokens, y);
    }
    Multiply(encoder.skip, kv_head, x, num_inputs, bits, num_tokens, y);
    return y;
  }

  void WritePlanes(const float* w, int64_t entry) const {
    const HashWeights& hash = *params_.hash;
    const int64_t bits = 32 * hash.hash_words;
    const double rms = std::sqrt(kernels_.sum_squares(w, bits) / static_cast<double>(bits));
    const auto unit = static_cast<float>(hash.plane_step * (rms < 1e-6 ? 1e-6 : rms));
    params_.plane_unit[entry] = unit;
    kernels_.pack_levels(w, unit, hash.hash_words, hash.num_planes,
                         params_.planes + entry * hash.num_planes * hash.hash_words);
  }

  const EncodeAndAppendParams& params_;
  const KernelTable& kernels_;
  const float* const cosine_;
  const float* const sine_;
  const int dtype_;
  const int64_t group_, dim_;
};

void FillRotations(const EncodeAndAppendParams& params, float* cosine, float* sine) {
  const int64_t half = params.head_dim / 2;
  ParallelItems(params.execution, (params.num_tokens + kTokenBlock - 1) / kTokenBlock, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min<int64_t>(end * kTokenBlock, params.num_tokens);
    for (int64_t token = begin * kTokenBlock; token < last; ++token) {
      for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(params.positions[token]) * params.inv_freq[i];
        cosine[token * half + i] = std::cos(angle) * params.rope_scale;
        sine[token * half + i] = std::sin(angle) * params.rope_scale;
      }
    }
  });
}

}  // namespace

void EncodeAndAppend(const EncodeAndAppendParams& params, Level level) {
  static thread_local Scratch scratch;
  const int64_t num_angles = int64_t{params.num_tokens} * params.head_dim / 2;
  float* const cosine = scratch.Get<float>(2 * num_angles);
  float* const sine = cosine + num_angles;
  FillRotations(params, cosine, sine);

  const StepEncoder encoder(params, KernelsOf(level), cosine, sine);
  const int64_t num_blocks = (params.num_tokens + kTokenBlock - 1) / kTokenBlock;
  // Item: (token block, KV head, side). The query side costs more than the key side; alternating them keeps contiguous
  // shares of the items even.
  ParallelItems(params.execution, num_blocks * params.num_kv_heads * 2, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t block = item / (2 * params.num_kv_heads), kv_head = item / 2 % params.num_kv_heads;
      const TokenRange tokens{block * kTokenBlock, std::min<int64_t>((block + 1) * kTokenBlock, params.num_tokens)};
      if (item % 2 == 0) {
        encoder.Queries(tokens, kv_head);
      } else {
        encoder.Keys(tokens, kv_head);
      }
    }
  });
}

}  // namespace spotlight::kernels::cpu
