// What the kernels of retrieval_quality share: their arguments and the workspace of a pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/retrieval_quality.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {

// A row is cut into at most this many splits, at boundaries that depend on its length only.
inline constexpr int32_t kMaxQualitySplits = 256;
inline constexpr int32_t kMinQualitySplitTokens = 4 * kPageTokens;
// Oracle B's worst token is found a digit of its rank key at a time.
inline constexpr int kDigitBits = 11;
inline constexpr int kDigitBins = 1 << kDigitBits;
inline constexpr int kMaxDigits = (32 + 31 + kDigitBits - 1) / kDigitBits;
inline constexpr int32_t kCountTokens = 8192;  // that a block counts or sums

__host__ __device__ inline int32_t QualitySplitTokens(int32_t context_len) {
  const int32_t share = (context_len + kMaxQualitySplits - 1) / kMaxQualitySplits;
  const int32_t pages = (share + kPageTokens - 1) / kPageTokens * kPageTokens;
  return pages > kMinQualitySplitTokens ? pages : kMinQualitySplitTokens;
}

// The leading digits of a rank key, and which of the keys that share them is sought.
struct RankState {
  uint64_t prefix = 0;
  int32_t rank = 0;  // the rank-th largest, from 1
};

// One row's part of the workspace.
struct QualityRow {
  float* mass;          // [Hkv, max_context]
  double* mass_sums;    // [Hkv, max_splits, 2]: of the candidates, of all
  float* partials;      // [Hq, max_splits, D + 2]: weighted values, largest logit, sum of weights
  float* dense;         // [Hq, D]
  float* softmax;       // [Hq, 2]: largest logit, 1 / sum of weights
  int32_t* histograms;  // [Hkv, kMaxDigits, kDigitBins]
  RankState* states;    // [Hkv, kMaxDigits + 1], before each digit and after the last
  double* oracle_sums;  // [Hkv, ceil(max_context / kCountTokens)]: oracle B's mass, a block's share each
};

// Byte offsets of a row's parts, and the distance to the next row.
struct QualityLayout {
  size_t mass_sums, partials, dense, softmax, histograms, states, oracle_sums, row_bytes;
};

struct QualityArgs {
  RetrievalQualityParams op;  // pointers of the pass's first row
  int32_t group;
  int32_t max_splits;
  int32_t index_bits;  // of a token's index in a rank key
  QualityLayout layout;

  __device__ QualityRow Row(int32_t row) const {
    char* const base = static_cast<char*>(op.workspace) + row * layout.row_bytes;
    return {reinterpret_cast<float*>(base),
            reinterpret_cast<double*>(base + layout.mass_sums),
            reinterpret_cast<float*>(base + layout.partials),
            reinterpret_cast<float*>(base + layout.dense),
            reinterpret_cast<float*>(base + layout.softmax),
            reinterpret_cast<int32_t*>(base + layout.histograms),
            reinterpret_cast<RankState*>(base + layout.states),
            reinterpret_cast<double*>(base + layout.oracle_sums)};
  }
  __device__ Competition CompetitionOfRow(int32_t row) const {
    return CompetitionOf(op.context_len[row], op.num_select[row], op.sink_tokens, op.recent_tokens);
  }
  // Larger for a larger mass (none is negative), then for a lower index. No two tokens share one.
  __device__ uint64_t RankKey(float mass, int32_t token) const {
    const uint64_t index_mask = (uint64_t{1} << index_bits) - 1;
    return uint64_t{__float_as_uint(mass)} << index_bits | (index_mask - static_cast<uint32_t>(token));
  }
  __host__ __device__ int NumCounts() const { return (op.max_context + kCountTokens - 1) / kCountTokens; }
  __host__ __device__ int NumDigits() const { return (32 + index_bits + kDigitBits - 1) / kDigitBits; }
};

}  // namespace spotlight::kernels::cuda
