// What keys and queries are centred and scaled by, from a few sequences.
#pragma once

#include <vector>

#include "training/activations.h"
#include "training/hash_layout.h"
#include "training/hash_objective.h"
#include "training/recipe.h"

namespace spotlight::training {

// Mean of every channel, one scale per head (1 / root mean variance of its channels): per query head where the group is
// read together, over the group where one encoder reads each. With a position mix the sequences are scattered over the
// target range first: slow rotary channels' means depend on the positions. fp32 on `device`.
Centring MeasureCentring(const Recipe& recipe, const HashShape& shape, const HashLayout& layout,
                         const std::vector<Activations>& samples, at::Device device);

}  // namespace spotlight::training
