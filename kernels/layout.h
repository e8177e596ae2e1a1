// Shapes, page layout and bit order that every kernel, the engine and the trainer share.
//
// The shape alphabet, used in every comment of this project:
//   B   sequences (rows) of a step       T    packed query tokens of a step     S   cached tokens of a sequence
//   Hq  query heads                      Hkv  key/value heads                   G   Hq / Hkv, query heads per KV head
//   D   head size                        P    page size in tokens (64)          W   hash words (uint32) per code
//   J   bit-planes of a query            K    selected tokens of a row and KV head
#pragma once

#include <cstddef>
#include <cstdint>

namespace spotlight::kernels {

// Token t of a sequence lives in page page_table[t / kPageTokens], slot t % kPageTokens.
inline constexpr int kPageTokens = 64;
// Default budget (kernels/budget.h computes with it): these tokens are always attended and never compete.
inline constexpr int kSinkTokens = 4;
inline constexpr int kRecentTokens = 64;
inline constexpr int kMinSelectedTokens = 64;
inline constexpr double kBudgetRatio = 0.02;
// The prefilter's first pass keeps kPrefilterFactor * K candidates.
inline constexpr int kPrefilterFactor = 4;
inline constexpr int kMaxPlanes = 4;
inline constexpr int kMaxHashWords = 8;
inline constexpr int kMaxGroup = 16;

enum class DType : uint8_t { kF32, kBF16, kF16 };

inline constexpr size_t SizeOf(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

enum class DeviceKind : uint8_t { kCpu, kCuda };

// One layer's pages. Pointers are on the op's device.
//
//   kv        [pages, Hkv, P, 2, D]  dtype   K then V of a token: one burst of 2 * D elements for a selected token
//   kv_scale  [pages, Hkv, P, 2]     float   null: kv is of the operation's dtype. Else kv is e4m3 (kernels/e4m3.h),
//                                            and an element is worth its e4m3 times its K's or V's scale
//   codes     [pages, Hkv, P, W]     uint32  key codes; null in a layer without a hash
//   prefix    [pages, Hkv, P]        uint32  word 0 of each code, what the prefilter's first pass reads; null likewise
//
// A K or V in e4m3 is what fp8_rows.h makes of it as it would be stored in dtype: scale = largest magnitude / 448, 1
// for zeros, and NaN, unlike there, for a row with a NaN or an infinity. Operations take e4m3 pages where dtype is
// bf16, and on the CPU where it is fp32. Bit b of a code is bit b % 32 of word b / 32; it is set when the encoder's
// output b is >= 0 (NaN gives 0). Alignment: 16 bytes.
struct LayerPages {
  void* kv = nullptr;
  uint32_t* codes = nullptr;
  uint32_t* prefix = nullptr;
  int32_t num_pages = 0;
  float* kv_scale = nullptr;
};

inline constexpr size_t KvBytesPerToken(int num_kv_heads, int head_dim, DType dtype) {
  return size_t{2} * num_kv_heads * head_dim * SizeOf(dtype);
}
// Of pages in e4m3: values and scales.
inline constexpr size_t E4m3KvBytesPerToken(int num_kv_heads, int head_dim) {
  return size_t{2} * num_kv_heads * (head_dim + sizeof(float));
}
// Codes and their prefix copies.
inline constexpr size_t CodeBytesPerToken(int num_kv_heads, int hash_words) {
  return size_t{4} * num_kv_heads * (hash_words + 1);
}

}  // namespace spotlight::kernels
