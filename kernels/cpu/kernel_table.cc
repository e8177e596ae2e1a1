#include "kernels/cpu/kernel_table.h"

namespace spotlight::kernels::cpu {

const KernelTable& KernelsOf(Level level) {
#if defined(__x86_64__)
  switch (level) {
    case Level::kAvx512:
      return kAvx512Kernels;
    case Level::kAvx2:
      return kAvx2Kernels;
    case Level::kBaseline:
      break;
  }
#endif
  return kBaselineKernels;
}

}  // namespace spotlight::kernels::cpu
