#include "kernels/cpu/prefill_attention.h"

#include <algorithm>

#include "kernels/cpu/level.h"
#include "kernels/cpu/parallel.h"
#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// Tiles of one work item: they share each page while it is in the first-level cache.
constexpr int64_t kItemTiles = 8;
constexpr int64_t kItemRows = kItemTiles * kTileRows;
// Pages are packed this many bytes per KV head at a time, and stay in the second-level cache for a thread's items.
constexpr int64_t kSegmentBytes = 512 << 10;
constexpr float kLog2E = 1.44269504f;

class Prefill {
 public:
  Prefill(const PrefillAttentionParams& params, const PrefillKernels& kernels)
      : params_(params),
        kernels_(kernels),
        group_(params.num_q_heads / params.num_kv_heads),
        dim_(params.head_dim),
        num_rows_(int64_t{params.num_tokens} * group_),
        num_blocks_((num_rows_ + kItemRows - 1) / kItemRows),
        num_pages_((params.context_len + kPageTokens - 1) / kPageTokens),
        segment_pages_(std::min(num_pages_, kSegmentBytes / (PackedPageWords(params.head_dim) * 4))) {}

  void Run() const {
    static thread_local Scratch packed_scratch, state_scratch;
    uint32_t* const packed =
        packed_scratch.Get<uint32_t>(params_.num_kv_heads * segment_pages_ * PackedPageWords(dim_));
    const int64_t num_items = params_.num_kv_heads * num_blocks_;
    // Rows outlive a segment where there are several.
    float* const states = segment_pages_ == num_pages_ ? nullptr : state_scratch.Get<float>(num_items * ItemFloats());
    for (int64_t first_page = 0; first_page < num_pages_; first_page += segment_pages_) {
      const int64_t num_pages = std::min(segment_pages_, num_pages_ - first_page);
      ParallelItems(params_.execution, params_.num_kv_heads * num_pages, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          PackPage(i / num_pages, first_page + i % num_pages, PackedPage(packed, i / num_pages, i % num_pages));
        }
      });
      ParallelItems(params_.execution, num_items, [&](int64_t begin, int64_t end) {
        static thread_local Scratch scratch;
        for (int64_t item = begin; item < end; ++item) {
          float* state = states == nullptr ? scratch.Get<float>(ItemFloats()) : states + item * ItemFloats();
          // Blocks grow: alternating between a head's two ends gives every contiguous share of items the same work.
          const int64_t kv_head = item / num_blocks_, i = item % num_blocks_;
          const int64_t block = i % 2 == 0 ? i / 2 : num_blocks_ - 1 - i / 2;
          AttendBlock(kv_head, block, first_page, num_pages, PackedPage(packed, kv_head, 0), state);
        }
      });
    }
  }

 private:
  int64_t ItemFloats() const { return kItemTiles * TileFloats(dim_); }
  uint32_t* PackedPage(uint32_t* packed, int64_t kv_head, int64_t page) const {
    return packed + (kv_head * segment_pages_ + page) * PackedPageWords(dim_);
  }

  void PackPage(int64_t kv_head, int64_t page, uint32_t* packed) const {
    const int64_t entry = (params_.page_table[page] * int64_t{params_.num_kv_heads} + kv_head) * kPageTokens;
    const int64_t num_tokens = std::min<int64_t>(kPageTokens, params_.context_len - page * kPageTokens);
    const LayerPages& pages = params_.pages;
    if (pages.kv_scale == nullptr) {
      const auto* const kv = static_cast<const uint16_t*>(pages.kv) + entry * 2 * dim_;
      kernels_.pack(kv, static_cast<int>(num_tokens), dim_, packed);
      return;
    }
    static thread_local Scratch scratch;
    auto* const kv = scratch.Get<BF16>(int64_t{kPageTokens} * 2 * dim_);
    const auto* const stored = static_cast<const E4m3*>(pages.kv) + entry * 2 * dim_;
    for (int64_t row = 0; row < 2 * num_tokens; ++row) {
      const float scale = pages.kv_scale[2 * entry + row];
      for (int64_t i = row * dim_; i < (row + 1) * dim_; ++i) RoundTo(ToFloat(stored[i]) * scale, kv + i);
    }
    kernels_.pack(kv, static_cast<int>(num_tokens), dim_, packed);
  }

  PrefillTile TileOf(int64_t kv_head, int64_t first_row, float* state) const {
    PrefillTile tile;
    tile.num_rows = static_cast<int>(std::min<int64_t>(kTileRows, num_rows_ - first_row));
    for (int r = 0; r < tile.num_rows; ++r) {
      const int64_t token = (first_row + r) / group_, head = kv_head * group_ + (first_row + r) % group_;
      const int64_t element = (token * params_.num_q_heads + head) * dim_;
      tile.q[r] = static_cast<const uint16_t*>(params_.q) + element;
      tile.out[r] = static_cast<uint16_t*>(params_.out) + element;
      tile.num_visible[r] = static_cast<int32_t>(params_.context_len - params_.num_tokens + token + 1);
    }
    tile.state = state;
    return tile;
  }

  // Block `block` of a KV head's rows against the segment of pages that begins at first_page.
  void AttendBlock(int64_t kv_head, int64_t block, int64_t first_page, int64_t num_pages, const uint32_t* packed,
                   float* state) const {
    PrefillTile tiles[kItemTiles];
    int64_t num_tiles = 0;
    const int64_t end = std::min(num_rows_, (block + 1) * kItemRows);
    for (int64_t row = block * kItemRows; row < end; row += kTileRows, state += TileFloats(dim_)) {
      tiles[num_tiles++] = TileOf(kv_head, row, state);
      if (first_page == 0) kernels_.reset(dim_, state);
    }
    for (int64_t page = 0; page < num_pages; ++page, packed += PackedPageWords(dim_)) {
      const auto first_token = static_cast<int32_t>((first_page + page) * kPageTokens);
      for (int64_t i = 0; i < num_tiles; ++i) {
        if (tiles[i].num_visible[tiles[i].num_rows - 1] <= first_token) continue;
        kernels_.attend(tiles[i], packed, first_token, dim_, params_.softmax_scale * kLog2E);
      }
    }
    if (first_page + num_pages < num_pages_) return;
    for (int64_t i = 0; i < num_tiles; ++i) kernels_.finish(tiles[i], dim_);
  }

  const PrefillAttentionParams& params_;
  const PrefillKernels& kernels_;
  const int64_t group_;
  const int dim_;
  const int64_t num_rows_, num_blocks_, num_pages_, segment_pages_;
};

}  // namespace

const PrefillKernels* BestPrefillKernels() {
#if defined(__x86_64__)
  return HasAvx512Bf16() ? &kAvx512Bf16Prefill : nullptr;
#else
  return nullptr;
#endif
}

void PrefillAttention(const PrefillAttentionParams& params, const PrefillKernels& kernels) {
  Prefill(params, kernels).Run();
}

}  // namespace spotlight::kernels::cpu
