// clang-format off: each header builds on those above it.
#include "kernels/cpu/attend_inl.h"
#include "kernels/cpu/encoder_inl.h"
#include "kernels/cpu/kernel_table_inl.h"
#include "kernels/cpu/score_popcount_inl.h"
#include "kernels/cpu/select_inl.h"
#include "kernels/cpu/simd_avx2.h"
// clang-format on

namespace spotlight::kernels::cpu {

const KernelTable kAvx2Kernels = MakeKernelTable();

}  // namespace spotlight::kernels::cpu
