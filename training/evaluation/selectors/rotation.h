// Random directions and the centre of keys, for locality-sensitive hashing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace spotlight::training {

// [rows, columns] float on the CPU: random rotations of `rows` dimensions side by side, cut to `columns`.
at::Tensor LshRotations(int64_t rows, int64_t columns, uint64_t seed);

// [rows, columns] float on the CPU, independent standard normal.
at::Tensor RandomDirections(int64_t rows, int64_t columns, uint64_t seed);

// Mean key [Hkv, 1, D] float of the sequence. Keys lie in a narrow cone: around their centre their directions tell them
// apart, around zero they do not. Later keys than a query's count too, in favour of the methods that use it; a server
// would take the centre from other text. (Slow rotary dimensions turn less than once in a sequence: the mean of its
// first half alone costs LSH .05 of recB.)
at::Tensor CentreOf(const at::Tensor& keys);

}  // namespace spotlight::training
