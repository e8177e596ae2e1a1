// Selections that look at the exact attention (the oracles) or at nothing (the window, chance): the bounds between
// which every method lies.
#pragma once

#include <cstdint>
#include <memory>

#include "training/evaluation/selector.h"

namespace spotlight::training {

// "oracle-a": each query head's own tokens with the largest logits.
std::unique_ptr<Selector> MakeOracleA();
// "oracle-b": the group's tokens with the largest summed softmax weight; the best that one set per KV head can be.
std::unique_ptr<Selector> MakeOracleB();
// "window": the most recent candidates, which with the sinks is StreamingLLM (arXiv 2309.17453) at the same budget.
std::unique_ptr<Selector> MakeWindow();
// "random": candidates by chance, one set per KV head, from (seed, layer, KV head, position, token) alone.
std::unique_ptr<Selector> MakeRandom(uint64_t seed);

}  // namespace spotlight::training
