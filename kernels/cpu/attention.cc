#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/e4m3_tokens.h"
#include "kernels/cpu/parallel.h"

namespace spotlight::kernels::cpu {
namespace {

constexpr int32_t kMaxSplits = 32;
// A split of several blocks computes one while the next is on its way from memory.
constexpr int32_t kMinSplitTokens = 2 * kBlockTokens;
// With fewer (row, KV head) pairs than this, splits are shared out among threads and merged afterwards; with more, a
// thread runs a pair's splits one after the other and needs no memory for partial results.
constexpr int64_t kMaxSplitPairs = 64;
constexpr float kLog2E = 1.44269504f;

int32_t SplitTokens(int32_t num_tokens) {
  const int32_t share = (num_tokens + kMaxSplits - 1) / kMaxSplits;
  return std::max(kMinSplitTokens, (share + kBlockTokens - 1) / kBlockTokens * kBlockTokens);
}

int32_t NumSplits(int32_t num_tokens) {
  const int32_t split = SplitTokens(num_tokens);
  return (num_tokens + split - 1) / split;
}

struct SplitItem {
  int64_t pair = 0;
  int32_t split = 0;
};

class Attention {
 public:
  Attention(const KernelTable& kernels, const AttentionShape& shape, const void* q, const LayerPages& pages,
            const AttentionRow* row_heads, void* out)
      : kernels_(kernels),
        shape_(shape),
        group_(shape.num_q_heads / shape.num_kv_heads),
        dtype_(static_cast<int>(shape.dtype)),
        tokens_(kernels, pages, shape.dtype, shape.num_kv_heads, shape.head_dim),
        q_(static_cast<const char*>(q)),
        row_heads_(row_heads),
        out_(static_cast<char*>(out)) {}

  int state_floats() const { return StateFloats(group_, shape_.head_dim); }

  // Query group of `pair`, scaled to base-2 logits: q [G, D].
  void LoadQuery(int64_t pair, float* q) const {
    kernels_.load_scaled[dtype_](q_ + GroupBytes(pair), group_ * shape_.head_dim, shape_.softmax_scale * kLog2E, q);
  }

  void ResetState(float* state) const {
    std::memset(state, 0, state_floats() * sizeof(float));
    std::fill_n(state, group_, -std::numeric_limits<float>::infinity());
  }

  // `next` is what the thread runs afterwards, or null: its first block is asked for during this split's last.
  void RunSplit(const SplitItem& item, const SplitItem* next, const float* q, float* state) const {
    ResetState(state);
    const int32_t end = SplitEnd(item);
    const void* keys[2][kBlockTokens];
    int32_t position = SplitBegin(item);
    int count = FindKeys(item.pair, position, end, keys[0]);
    for (int side = 0; count > 0; side ^= 1) {
      position += count;
      int next_count = FindKeys(item.pair, position, end, keys[side ^ 1]);
      const bool is_last = next_count == 0;
      if (is_last && next != nullptr) {
        next_count = FindKeys(next->pair, SplitBegin(*next), SplitEnd(*next), keys[side ^ 1]);
      }
      // A block that is read in place asks for as many tokens as it holds itself.
      Prefetch(keys[side ^ 1], tokens_.in_place() ? count : 0, next_count);
      tokens_.Read(keys[side], count);
      AttendBlock block;
      block.q = q;
      block.group = group_;
      block.head_dim = shape_.head_dim;
      block.keys = keys[side];
      block.num_tokens = count;
      block.next_keys = keys[side ^ 1];
      block.num_next = tokens_.in_place() ? next_count : 0;
      block.state = state;
      kernels_.attend[tokens_.dtype_index()](block);
      count = is_last ? 0 : next_count;
    }
  }

  // Asks for the first block of a thread's first split.
  void PrefetchFirst(const SplitItem& item) const {
    const void* keys[kBlockTokens];
    Prefetch(keys, 0, FindKeys(item.pair, SplitBegin(item), SplitEnd(item), keys));
  }

  void WriteOutput(int64_t pair, const float* state) const {
    char* out = out_ + GroupBytes(pair);
    if (row_heads_[pair].tokens.size() == 0) {
      std::memset(out, 0, GroupBytes(1));
    } else {
      kernels_.finish[dtype_](state, group_, shape_.head_dim, out);
    }
  }

 private:
  int32_t SplitBegin(const SplitItem& item) const {
    return item.split * SplitTokens(row_heads_[item.pair].tokens.size());
  }
  int32_t SplitEnd(const SplitItem& item) const {
    const int32_t size = row_heads_[item.pair].tokens.size();
    return std::min(size, (item.split + 1) * SplitTokens(size));
  }

  void Prefetch(const void* const* keys, int begin, int end) const {
    for (int i = begin; i < end; ++i) {
      for (int64_t line = 0; line < tokens_.token_bytes(); line += 64) {
        __builtin_prefetch(static_cast<const char*>(keys[i]) + line);
      }
    }
  }

  int64_t GroupBytes(int64_t pairs) const { return pairs * group_ * shape_.head_dim * SizeOf(shape_.dtype); }

  // Addresses of the keys at positions [begin, min(begin + kBlockTokens, end)).
  int FindKeys(int64_t pair, int32_t begin, int32_t end, const void** keys) const {
    const AttentionRow& row = row_heads_[pair];
    const int64_t kv_head = pair % shape_.num_kv_heads;
    const int count = std::clamp(end - begin, 0, kBlockTokens);
    for (int i = 0; i < count; ++i) {
      const int32_t token = row.tokens[begin + i];
      keys[i] = tokens_.Find(row.page_table[token / kPageTokens], kv_head, token % kPageTokens);
    }
    return count;
  }

  const KernelTable& kernels_;
  const AttentionShape& shape_;
  const int32_t group_;
  const int dtype_;
  const CachedTokens tokens_;
  const char* const q_;
  const AttentionRow* const row_heads_;
  char* const out_;
};

// A thread's buffers for one pair.
struct PairBuffers {
  alignas(64) float q[kMaxGroup * kMaxHeadDim];
  alignas(64) float state[kMaxStateFloats];
  alignas(64) float partial[kMaxStateFloats];
};

void AttendWholePairs(const Execution& execution, const KernelTable& kernels, const Attention& attention,
                      const AttentionShape& shape, const AttentionRow* row_heads, int64_t num_rows) {
  const int32_t group = shape.num_q_heads / shape.num_kv_heads;
  ParallelItems(execution, num_rows * shape.num_kv_heads, [&](int64_t begin, int64_t end) {
    PairBuffers buffers;
    // A prompt's rows grow: alternating between its two ends gives every contiguous share of items the same work.
    const auto pair_of = [&](int64_t item) {
      const int64_t kv_head = item / num_rows, i = item % num_rows;
      const int64_t row = i % 2 == 0 ? i / 2 : num_rows - 1 - i / 2;
      return row * shape.num_kv_heads + kv_head;
    };
    attention.PrefetchFirst({pair_of(begin), 0});
    for (int64_t item = begin; item < end; ++item) {
      const int64_t pair = pair_of(item);
      const int32_t num_splits = NumSplits(row_heads[pair].tokens.size());
      attention.LoadQuery(pair, buffers.q);
      for (int32_t split = 0; split < num_splits; ++split) {
        float* target = split == 0 ? buffers.state : buffers.partial;
        const bool is_last = split + 1 == num_splits;
        const SplitItem next = is_last && item + 1 < end ? SplitItem{pair_of(item + 1), 0} : SplitItem{pair, split + 1};
        attention.RunSplit({pair, split}, is_last && item + 1 == end ? nullptr : &next, buffers.q, target);
        if (split > 0) kernels.merge(buffers.partial, group, shape.head_dim, buffers.state);
      }
      attention.WriteOutput(pair, buffers.state);
    }
  });
}

void AttendBySplits(const Execution& execution, const KernelTable& kernels, const Attention& attention,
                    const AttentionShape& shape, const AttentionRow* row_heads, int64_t num_pairs) {
  const int32_t group = shape.num_q_heads / shape.num_kv_heads;
  static thread_local std::vector<SplitItem> items;
  static thread_local Scratch scratch;
  items.clear();
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    const int32_t num_splits = NumSplits(row_heads[pair].tokens.size());
    for (int32_t split = 0; split < num_splits; ++split) items.push_back({pair, split});
  }
  const int64_t state_floats = attention.state_floats();
  const int64_t num_items = static_cast<int64_t>(items.size());
  float* const partials = scratch.Get<float>(num_items * state_floats);
  const SplitItem* const work = items.data();
  ParallelItems(execution, num_items, [&](int64_t begin, int64_t end) {
    alignas(64) float q[kMaxGroup * kMaxHeadDim];
    attention.PrefetchFirst(work[begin]);
    for (int64_t i = begin; i < end; ++i) {
      if (i == begin || work[i].split == 0) attention.LoadQuery(work[i].pair, q);
      attention.RunSplit(work[i], i + 1 < end ? &work[i + 1] : nullptr, q, partials + i * state_floats);
    }
  });

  int64_t item = 0;
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    float* const state = partials + item * state_floats;
    const int32_t num_splits = NumSplits(row_heads[pair].tokens.size());
    for (int32_t split = 1; split < num_splits; ++split) {
      kernels.merge(state + split * state_floats, group, shape.head_dim, state);
    }
    attention.WriteOutput(pair, state);
    item += num_splits;
  }
}

}  // namespace

void AttendRows(const Execution& execution, const KernelTable& kernels, const AttentionShape& shape, const void* q,
                const LayerPages& pages, const AttentionRow* row_heads, int64_t num_rows, void* out) {
  const Attention attention(kernels, shape, q, pages, row_heads, out);
  const int64_t num_pairs = num_rows * shape.num_kv_heads;
  if (num_pairs < kMaxSplitPairs) {
    AttendBySplits(execution, kernels, attention, shape, row_heads, num_pairs);
  } else {
    AttendWholePairs(execution, kernels, attention, shape, row_heads, num_rows);
  }
}

}  // namespace spotlight::kernels::cpu
