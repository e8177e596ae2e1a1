// Random directions and the centre of keys, for locality-sensitive hashing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace spotlight::training {

// [rows, columns] float on the CPU: random rotations of `rows` dimensions side by side, cut to `columns`.
at::Tensor LshRotations(int64_t rows, int64_t columns, uint64_t seed);

// [rows, columns] float on the CPU, independent standard normal.
at::Tensor RandomDirections(int64_t rows, int64_t columns, uint64_t seed);

// Mean key [Hkv, 1, D] float of the first half of the tokens, which every query of the second half has seen. Keys lie
// in a narrow cone: around their centre their directions tell them apart, around zero they do not.
at::Tensor CentreOf(const at::Tensor& keys);

}  // namespace spotlight::training
