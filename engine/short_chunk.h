// The lengths of short chunks: a step that decodes and computes so much of one prompt is replayed from a CUDA graph.
#pragma once

#include <cstdint>

#include "kernels/chunk_attention.h"

namespace spotlight::engine {

// Ascending. With 7 query heads to a KV head they fill 1, 2, 3, 4, 6 and 7 blocks of 128 rows
// (kernels/chunk_attention.h).
inline constexpr int32_t kShortChunks[] = {16, 32, 48, 64, 96, 128};
inline constexpr int32_t kMaxShortChunk = 128;
static_assert(kMaxShortChunk <= kernels::kMaxChunkQueries);

// The shortest that holds `tokens`, at most kMaxShortChunk.
inline int32_t ShortChunkFor(int32_t tokens) {
  for (const int32_t length : kShortChunks) {
    if (length >= tokens) return length;
  }
  return kMaxShortChunk;
}

// The longest of at most `tokens`; where there is none, `tokens`.
inline int32_t ShortChunkWithin(int32_t tokens) {
  int32_t longest = tokens;
  for (const int32_t length : kShortChunks) {
    if (length <= tokens) longest = length;
  }
  return longest;
}

}  // namespace spotlight::engine
