// Random-rotation locality-sensitive hashing: what a hash reaches without training.
#pragma once

#include <cstdint>
#include <memory>

#include "training/evaluation/selector.h"

namespace spotlight::training {

// "lsh": bit b of a key is (k - centre) . r_b >= 0 and of a query q . r_b >= 0, r random rotations side by side; a
// token's score is its equal bits, summed over the group.
std::unique_ptr<Selector> MakeLsh(int32_t bits, uint64_t seed);
// "lsh-head": each query head selects by its own equal bits.
std::unique_ptr<Selector> MakeLshByHead(int32_t bits, uint64_t seed);

}  // namespace spotlight::training
