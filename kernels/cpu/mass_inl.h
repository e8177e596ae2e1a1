// Softmax weights of a block of keys, summed over the query group. Included once per instruction set, after
// attend_inl.h.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace spotlight::kernels::cpu {
namespace {

template <class T, int kHeads>
void AddHeadMass(const AttendBlock& block, int head, float* mass) {
  alignas(64) float logits[kHeads][kBlockTokens];
  DotKeys<T, kHeads>(block, head, logits);
  // Exp2 stops at its smallest normal number: taking that away makes it end in zero.
  const F32 smallest = Set(0x1p-126f);
  for (int h = 0; h < kHeads; ++h) {
    const F32 max = Set(block.state[head + h]), share = Set(1.0f / block.state[block.group + head + h]);
    for (int t = 0; t < block.num_tokens; t += kLanes) {
      const F32 weight = Max(Exp2(Load(logits[h] + t) - max) - smallest, Zero());
      Store(Fma(weight, share, Load(mass + t)), mass + t);
    }
  }
}

// Every token takes the same steps wherever it stands in the block: equal keys get equal bits.
template <class T>
void GroupMass(const AttendBlock& block, float* mass) {
  for (int t = 0; t < kBlockTokens; t += kLanes) Store(Zero(), mass + t);
  int head = 0;
  for (; head + 4 <= block.group; head += 4) AddHeadMass<T, 4>(block, head, mass);
  switch (block.group - head) {
    case 3:
      return AddHeadMass<T, 3>(block, head, mass);
    case 2:
      return AddHeadMass<T, 2>(block, head, mass);
    case 1:
      return AddHeadMass<T, 1>(block, head, mass);
    default:
      return;
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
