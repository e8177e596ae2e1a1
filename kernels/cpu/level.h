// Instruction sets that the CPU kernels are compiled for; one is chosen when the process first asks.
#pragma once

#include <vector>

namespace spotlight::kernels::cpu {

enum class Level {
  kBaseline,  // what the compiler may assume anyway
  kAvx2,      // AVX2, FMA, F16C, POPCNT
  kAvx512,    // AVX-512 F, BW, VL, DQ, VPOPCNTDQ
};

// The best level of this machine. Thread-safe.
Level BestLevel();

// Every level that this machine can run, worst first: what tests and benchmarks go through.
std::vector<Level> SupportedLevels();

// AVX512_BF16 on top of kAvx512: what prefill_attention needs.
bool HasAvx512Bf16();

const char* LevelName(Level level);

}  // namespace spotlight::kernels::cpu
