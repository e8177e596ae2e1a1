// Scoring by the 64-bit population count. Included by one translation unit per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

template <int kWords, int kPlanes>
void ScoreCodes(const ScorePlanes& planes, const uint32_t* codes, int64_t count, int16_t* scores) {
  constexpr int kPairs = (kWords + 1) / 2;
  uint64_t inverted[kPlanes][kPairs] = {};
  for (int j = 0; j < kPlanes; ++j) std::memcpy(inverted[j], planes.inverted + j * kWords, kWords * sizeof(uint32_t));
  for (int64_t i = 0; i < count; ++i) {
    uint64_t code[kPairs] = {};
    std::memcpy(code, codes + i * kWords, kWords * sizeof(uint32_t));
    int raw = 0;
    for (int j = 0; j < kPlanes; ++j) {
      int matches = 0;
      for (int w = 0; w < kPairs; ++w) matches += __builtin_popcountll(code[w] ^ inverted[j][w]);
      raw += matches * (j == kPlanes - 1 ? planes.top_plane_weight : 1 << j);
    }
    scores[i] = static_cast<int16_t>(raw);
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
