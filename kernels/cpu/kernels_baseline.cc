// Each header builds on those above it.
// clang-format off
#include "kernels/cpu/simd_baseline.h"
#include "kernels/cpu/score_popcount_inl.h"
#include "kernels/cpu/score_pages_inl.h"
#include "kernels/cpu/select_inl.h"
#include "kernels/cpu/attend_inl.h"
#include "kernels/cpu/mass_inl.h"
#include "kernels/cpu/encoder_inl.h"
#include "kernels/cpu/pointwise_inl.h"
#include "kernels/cpu/kernel_table_inl.h"
// clang-format on

namespace spotlight::kernels::cpu {

const KernelTable kBaselineKernels = MakeKernelTable();

}  // namespace spotlight::kernels::cpu
