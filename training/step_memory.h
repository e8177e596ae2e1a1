// How many KV heads are worked on at once, so that memory stays bounded whatever the model and the sequence.
#pragma once

#include <c10/core/DeviceType.h>

#include <cstdint>

#include "training/hash_layout.h"
#include "training/recipe.h"

namespace spotlight::training {

// Bytes that one KV head's units need at most while their gradients, or their held-out figures, are computed.
int64_t GradientBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens);
int64_t FigureBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens,
                           int64_t queries);

// KV heads at a time: as many as a fixed share of the device's memory holds, at least one.
int64_t HeadsAtOnce(int64_t bytes_per_head, int64_t num_heads, c10::DeviceType device);

}  // namespace spotlight::training
