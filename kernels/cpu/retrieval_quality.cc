#include "kernels/cpu/retrieval_quality.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/cpu/e4m3_tokens.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/parallel.h"
#include "kernels/numeric.h"
#include "kernels/retrieval_metrics.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cpu {
namespace {

// A row is cut into at most kMaxSplits work items per KV head, at boundaries that depend on its length only.
constexpr int32_t kMaxSplits = 64;
constexpr int32_t kMinSplitTokens = 1024;
constexpr float kLog2E = 1.44269504f;

// One row, whose KV heads and splits are shared out among threads.
class RowJudge {
 public:
  RowJudge(const RetrievalQualityParams& params, const KernelTable& kernels, int64_t row,
           const Competition& competition)
      : params_(params),
        kernels_(kernels),
        row_(row),
        competition_(competition),
        group_(params.num_q_heads / params.num_kv_heads),
        dtype_(static_cast<int>(params.dtype)),
        tokens_(kernels, params.pages, params.dtype, params.num_kv_heads, params.head_dim),
        context_len_(params.context_len[row]),
        state_floats_(StateFloats(group_, params.head_dim)) {
    const int32_t share = (context_len_ + kMaxSplits - 1) / kMaxSplits;
    split_tokens_ = std::max(kMinSplitTokens, (share + kPageTokens - 1) / kPageTokens * kPageTokens);
    num_splits_ = (context_len_ + split_tokens_ - 1) / split_tokens_;
    mass_stride_ = int64_t{num_splits_} * split_tokens_;
  }

  void Judge(const Execution& execution) {
    static thread_local Scratch state_scratch, mass_scratch;
    const int64_t num_items = int64_t{params_.num_kv_heads} * num_splits_;
    states_ = state_scratch.Get<float>(num_items * state_floats_);
    mass_ = mass_scratch.Get<float>(params_.num_kv_heads * mass_stride_);
    ParallelItems(execution, num_items, [this](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) AttendSplit(item / num_splits_, item % num_splits_);
    });
    for (int64_t kv_head = 0; kv_head < params_.num_kv_heads; ++kv_head) {
      for (int64_t split = 1; split < num_splits_; ++split) {
        kernels_.merge(StateOf(kv_head, split), group_, params_.head_dim, StateOf(kv_head, 0));
      }
    }
    ParallelItems(execution, num_items, [this](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) WeighSplit(item / num_splits_, item % num_splits_);
    });
    ParallelItems(execution, params_.num_kv_heads, [this](int64_t begin, int64_t end) {
      for (int64_t kv_head = begin; kv_head < end; ++kv_head) Compare(kv_head);
    });
  }

 private:
  // Of a KV head and split; the head's first one ends up as the whole row's.
  float* StateOf(int64_t kv_head, int64_t split) const {
    return states_ + (kv_head * num_splits_ + split) * state_floats_;
  }

  // Calls visit(block, first token) for every page of a split.
  template <class Visit>
  void ForEachPage(int64_t kv_head, int64_t split, const Visit& visit) const {
    alignas(64) float q[kMaxGroup * kMaxHeadDim];
    const int64_t elements = int64_t{group_} * params_.head_dim;
    const int64_t element_bytes = SizeOf(params_.dtype);
    kernels_.load_scaled[dtype_](
        static_cast<const char*>(params_.q) + (row_ * params_.num_kv_heads + kv_head) * elements * element_bytes,
        elements, params_.softmax_scale * kLog2E, q);
    const int32_t begin = static_cast<int32_t>(split) * split_tokens_;
    const int32_t end = std::min(context_len_, begin + split_tokens_);
    const void* keys[2][kPageTokens];
    AttendBlock block;
    block.q = q;
    block.group = group_;
    block.head_dim = params_.head_dim;
    int side = 0, count = FindKeys(kv_head, begin, end, keys[side]);
    for (int32_t token = begin; token < end; token += kPageTokens) {
      block.keys = keys[side];
      block.num_tokens = count;
      tokens_.Read(keys[side], count);
      side ^= 1;
      count = FindKeys(kv_head, token + kPageTokens, end, keys[side]);
      block.next_keys = keys[side];
      block.num_next = tokens_.in_place() ? count : 0;
      visit(block, token);
    }
  }

  // Addresses of the keys of tokens [begin, end) that lie in the page of `begin`; none when begin >= end.
  int FindKeys(int64_t kv_head, int32_t begin, int32_t end, const void** keys) const {
    if (begin >= end) return 0;
    const int64_t page = params_.page_table[row_ * params_.max_pages + begin / kPageTokens];
    const int count = std::min(kPageTokens, end - begin);
    for (int i = 0; i < count; ++i) keys[i] = tokens_.Find(page, kv_head, i);
    return count;
  }

  void AttendSplit(int64_t kv_head, int64_t split) const {
    float* const state = StateOf(kv_head, split);
    std::memset(state, 0, state_floats_ * sizeof(float));
    std::fill_n(state, group_, -std::numeric_limits<float>::infinity());
    ForEachPage(kv_head, split, [&](AttendBlock& block, int32_t) {
      block.state = state;
      kernels_.attend[tokens_.dtype_index()](block);
    });
  }

  void WeighSplit(int64_t kv_head, int64_t split) const {
    ForEachPage(kv_head, split, [&](AttendBlock& block, int32_t token) {
      block.state = StateOf(kv_head, 0);
      kernels_.group_mass[tokens_.dtype_index()](block, mass_ + kv_head * mass_stride_ + token);
    });
  }

  // Larger for a larger mass (none is negative), then for a lower index.
  static uint64_t RankKey(const float* mass, int32_t token) {
    return uint64_t{FloatBits(mass[token])} << 32 | (UINT32_MAX - static_cast<uint32_t>(token));
  }

  void Compare(int64_t kv_head) const {
    static thread_local Scratch key_scratch;
    const float* const mass = mass_ + kv_head * mass_stride_;
    const int64_t row_head = row_ * params_.num_kv_heads + kv_head;
    uint64_t* const keys = key_scratch.Get<uint64_t>(competition_.count);
    for (int32_t i = 0; i < competition_.count; ++i) keys[i] = RankKey(mass, competition_.begin + i);
    uint64_t* const last = keys + competition_.num_select - 1;
    std::nth_element(keys, last, keys + competition_.count, std::greater<uint64_t>());
    const uint64_t threshold = *last;  // the worst of oracle B

    RetrievalSums sums;
    sums.num_oracle = competition_.num_select;
    sums.num_selected = params_.num_selected[row_head];
    for (int32_t token = 0; token < context_len_; ++token) {
      sums.total_mass += mass[token];
      if (token < competition_.begin || token >= competition_.begin + competition_.count) continue;
      sums.candidate_mass += mass[token];
      if (RankKey(mass, token) >= threshold) sums.oracle_mass += mass[token];
    }
    const int32_t* const selected = params_.selected + row_head * params_.max_select;
    for (int32_t i = 0; i < sums.num_selected; ++i) {
      sums.num_hits += RankKey(mass, selected[i]) >= threshold;
      sums.selected_mass += mass[selected[i]];
    }

    const float* const state = StateOf(kv_head, 0);
    for (int32_t i = 0; i < group_ * params_.head_dim; ++i) {
      const double dense = state[StateHeaderFloats(group_) + i] / state[group_ + i / params_.head_dim];
      const double error =
          LoadElement(params_.sparse_out, params_.dtype, row_head * group_ * params_.head_dim + i) - dense;
      sums.error_squares += error * error;
      sums.dense_squares += dense * dense;
    }
    WriteMetrics(sums, params_, row_head);
  }

  const RetrievalQualityParams& params_;
  const KernelTable& kernels_;
  const int64_t row_;
  const Competition competition_;
  const int32_t group_;
  const int dtype_;
  const CachedTokens tokens_;
  const int32_t context_len_;
  const int64_t state_floats_;
  int32_t split_tokens_ = 0, num_splits_ = 0;
  int64_t mass_stride_ = 0;  // whole blocks: group_mass fills them
  float* states_ = nullptr;  // [Hkv, num_splits, state_floats]
  float* mass_ = nullptr;    // [Hkv, mass_stride]
};

}  // namespace

void RetrievalQuality(const RetrievalQualityParams& params, Level level) {
  for (int64_t row = 0; row < params.num_rows; ++row) {
    const Competition competition =
        CompetitionOf(params.context_len[row], params.num_select[row], params.sink_tokens, params.recent_tokens);
    if (competition.num_select > 0) {
      RowJudge(params, KernelsOf(level), row, competition).Judge(params.execution);
      continue;
    }
    for (int64_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      WriteNothingToJudge(params, row * params.num_kv_heads + kv_head);
    }
  }
}

}  // namespace spotlight::kernels::cpu
