// The work of a step in batches of KV heads, so that memory stays bounded whatever the model and the sequence.
#pragma once

#include <c10/core/DeviceType.h>

#include <cstdint>
#include <functional>

#include "training/hash_layout.h"
#include "training/recipe.h"

namespace spotlight::training {

// Bytes that one KV head's units need at most while their gradients, or their held-out figures, are computed.
int64_t GradientBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens);
int64_t FigureBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens,
                           int64_t queries);

// KV heads [begin, begin + count) at a time, for all `num_heads`: as many as a fixed share of the device's memory
// holds, at least one. On the CPU every thread takes batches of its own and works on them alone (one barrier in all
// instead of one an operation), so `work` must be thread-safe; it runs without gradients. What it computes for a head
// does not depend on the number of threads.
void ForHeadBatches(int64_t num_heads, int64_t bytes_per_head, c10::DeviceType device,
                    const std::function<void(int64_t begin, int64_t count)>& work);

// What all batches that are worked on together need.
int64_t BytesAtOnce(int64_t num_heads, int64_t bytes_per_head, c10::DeviceType device);

}  // namespace spotlight::training
