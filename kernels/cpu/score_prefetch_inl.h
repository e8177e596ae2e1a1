// Asking for codes ahead of their scoring. Included once per instruction set.
#pragma once

#include <cstdint>

#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// A page's codes are too short a run for the hardware's prefetcher to follow: the run this far ahead is asked for while
// one is scored, a line for each line, since all at once they would stall the core. Into the second
// level, which has room for more requests at a time.
constexpr int kPrefetchBytes = 8192;

template <int kNumWords>
SPOTLIGHT_INLINE void PrefetchLater(const uint32_t* words) {
  for (int i = 0; i < kNumWords; i += 16) __builtin_prefetch(words + i, 0, 2);
}

}  // namespace
}  // namespace spotlight::kernels::cpu
