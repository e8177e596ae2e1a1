// Keys and values in e4m3: rows rounded on their way into pages, and a block's tokens as floats on their way to
// attention.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/layout.h"

namespace spotlight::kernels::cpu {

// Stores a row x [size] of values of dtype as layout.h says; x becomes the stored values, rounded to dtype.
void StoreE4m3Row(DType dtype, int32_t size, float* x, void* stored, float* scale);

// The cached tokens of one call: where they lie, and what the attention of KernelTable reads.
class CachedTokens {
 public:
  CachedTokens(const KernelTable& kernels, const LayerPages& pages, DType dtype, int32_t num_kv_heads, int32_t head_dim)
      : kernels_(kernels),
        kv_(static_cast<const char*>(pages.kv)),
        kv_scale_(pages.kv_scale),
        dtype_(dtype),
        num_kv_heads_(num_kv_heads),
        head_dim_(head_dim),
        token_bytes_(2 * head_dim * static_cast<int64_t>(kv_scale_ != nullptr ? 1 : SizeOf(dtype))) {}

  int64_t token_bytes() const { return token_bytes_; }
  // Of the table's functions: what Read leaves.
  int dtype_index() const { return static_cast<int>(kv_scale_ != nullptr ? DType::kF32 : dtype_); }
  bool in_place() const { return kv_scale_ == nullptr; }

  // Where token `slot` of a page's KV head is.
  const void* Find(int64_t page, int64_t kv_head, int64_t slot) const {
    return kv_ + ((page * num_kv_heads_ + kv_head) * kPageTokens + slot) * token_bytes_;
  }

  // keys [count], count <= kBlockTokens, as Find gave them: become what AttendBlock::keys takes. Those that are not
  // read in place lie in the thread's own memory until its next call.
  void Read(const void** keys, int32_t count) const;

 private:
  const KernelTable& kernels_;
  const char* const kv_;
  const float* const kv_scale_;
  const DType dtype_;
  const int32_t num_kv_heads_, head_dim_;
  const int64_t token_bytes_;
};

}  // namespace spotlight::kernels::cpu
