// What is left of sparse decode without its arithmetic: reads of the code pages, one exchange between the blocks of a
// KV head, reads of the selected tokens, one exchange of partial results. A kernel that reads this paged layout once
// and agrees on an exact cut between two reads does at least these.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spotlight::benchmarks {

enum SkeletonPart : int { kReadCodes = 1, kExchangeSums = 2, kReadTokens = 4, kCombineResults = 8 };
constexpr int kWholeSkeleton = kReadCodes | kExchangeSums | kReadTokens | kCombineResults;

constexpr int32_t kSkeletonPieceBytes = 1024;  // of codes: a page's of one KV head
constexpr int32_t kSkeletonTokenBytes = 512;   // key and value, D 128 in 16 bits

// Pointers are to device memory.
struct SkeletonWork {
  const void* codes = nullptr;  // pieces of kSkeletonPieceBytes
  const void* kv = nullptr;     // tokens of kSkeletonTokenBytes
  // Which of them, in order: [num_heads, num_pieces] and [num_heads, num_tokens]. A head's are dealt out evenly to its
  // blocks.
  const int32_t* pieces = nullptr;
  const int32_t* tokens = nullptr;
  int32_t num_heads = 0, num_pieces = 0, num_tokens = 0;
  void* scratch = nullptr;  // SkeletonScratchBytes(num_heads), zeroed once
};

size_t SkeletonScratchBytes(int32_t num_heads);

// Enqueues `parts` in one launch of a block for each multiprocessor, on `stream` (cudaStream_t). `overlap_previous`:
// the codes, which no earlier kernel writes, are read while the stream's previous kernel runs (programmatic dependent
// launch). The first CUDA error ends the program.
void LaunchSkeleton(void* stream, const SkeletonWork& work, int parts, bool overlap_previous);

}  // namespace spotlight::benchmarks
