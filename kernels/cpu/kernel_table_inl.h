// The table of one instruction set. Included last.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace spotlight::kernels::cpu {
namespace {

constexpr KernelTable MakeKernelTable() {
  return {
      Score,
      ScorePages,
      CountAtLeast,
      Select,
      {Attend<float>, Attend<BF16>, Attend<F16>},
      Merge,
      {GroupMass<float>, GroupMass<BF16>, GroupMass<F16>},
      {Finish<float>, Finish<BF16>, Finish<F16>},
      {LoadScaled<float>, LoadScaled<BF16>, LoadScaled<F16>},
      LoadScaled<E4m3>,
      {Rotate<float>, Rotate<BF16>, Rotate<F16>},
      {Affine<float>, Affine<BF16>, Affine<F16>},
      Silu,
      PackSigns,
      PackLevels,
      SumSquares,
      {AddRmsNorm<float>, AddRmsNorm<BF16>, AddRmsNorm<F16>},
      {SiluMul<float>, SiluMul<BF16>, SiluMul<F16>},
  };
}

}  // namespace
}  // namespace spotlight::kernels::cpu
