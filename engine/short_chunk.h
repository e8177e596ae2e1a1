// The lengths of short chunks: a step that decodes and computes so much of one prompt is replayed from a CUDA graph
// where kernels/chunk_attention.h reads the pages.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/chunk_attention.h"

namespace spotlight::engine {

inline constexpr int32_t kMaxShortChunk = kernels::kMaxChunkQueries;

// The shortest has at most so many tokens: even where time is short a prompt goes on by that.
inline constexpr int32_t kLongestFirst = 32;

// Ascending, the last kMaxShortChunk. For models of `group` query heads to a KV head: at most 8 lengths that fill the
// blocks of kernels/chunk_attention.h as far as whole tokens do, and a short one where a block holds many tokens.
// Of pages in e4m3, which that kernel does not read, every chunk gathers all that comes before it, and there is no
// graph to be had for short ones: kMaxShortChunk alone.
inline std::vector<int32_t> ShortChunksFor(int32_t group, bool e4m3_pages) {
  if (e4m3_pages) return {kMaxShortChunk};
  std::vector<int32_t> lengths;
  const int32_t step = (group + 7) / 8;  // blocks
  if (kernels::kChunkBlockRows * step / group > kLongestFirst) lengths.push_back(kLongestFirst);
  for (int32_t blocks = step; blocks < group; blocks += step) {
    lengths.push_back(kernels::kChunkBlockRows * blocks / group);
  }
  lengths.push_back(kMaxShortChunk);
  return lengths;
}

// Of `lengths`, the shortest that holds `tokens`, at most kMaxShortChunk.
inline int32_t ShortChunkFor(int32_t tokens, const std::vector<int32_t>& lengths) {
  for (const int32_t length : lengths) {
    if (length >= tokens) return length;
  }
  return kMaxShortChunk;
}

// The longest of at most `tokens`; else the shortest.
inline int32_t ShortChunkWithin(int32_t tokens, const std::vector<int32_t>& lengths) {
  int32_t longest = lengths.front();
  for (const int32_t length : lengths) {
    if (length <= tokens) longest = length;
  }
  return longest;
}

}  // namespace spotlight::engine
