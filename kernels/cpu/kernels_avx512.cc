// clang-format off: each header builds on those above it.
#include "kernels/cpu/attend_inl.h"
#include "kernels/cpu/encoder_inl.h"
#include "kernels/cpu/kernel_table_inl.h"
#include "kernels/cpu/score_avx512_inl.h"
#include "kernels/cpu/select_inl.h"
#include "kernels/cpu/simd_avx512.h"
// clang-format on

namespace spotlight::kernels::cpu {

const KernelTable kAvx512Kernels = MakeKernelTable();

}  // namespace spotlight::kernels::cpu
