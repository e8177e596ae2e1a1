#include "kernels/cpu/level.h"

namespace spotlight::kernels::cpu {
namespace {

bool IsSupported(Level level) {
#if defined(__x86_64__)
  switch (level) {
    case Level::kBaseline:
      return true;
    case Level::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt") &&
             __builtin_cpu_supports("f16c");
    case Level::kAvx512:
      return IsSupported(Level::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vpopcntdq");
  }
#endif
  return level == Level::kBaseline;
}

}  // namespace

std::vector<Level> SupportedLevels() {
  std::vector<Level> levels;
  for (const Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512}) {
    if (IsSupported(level)) levels.push_back(level);
  }
  return levels;
}

Level BestLevel() {
  static const Level level = SupportedLevels().back();
  return level;
}

bool HasAvx512Bf16() {
#if defined(__x86_64__)
  return IsSupported(Level::kAvx512) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

const char* LevelName(Level level) {
  switch (level) {
    case Level::kBaseline:
      return "baseline";
    case Level::kAvx2:
      return "avx2";
    case Level::kAvx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace spotlight::kernels::cpu
