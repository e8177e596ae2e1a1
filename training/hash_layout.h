// Which learned numbers a unit of a hash has and where they lie: one row of P floats per unit, U rows, so that clipping
// and the optimiser are a few passes over one tensor. One unit is one (layer, KV head) pair, in that order (with
// Recipe::per_query_head one (layer, query head) pair).
//
// Tensors by name, each [U, rows, columns] (D head size, G the unit's query heads, N hash bits, M hidden):
//   key.w1 [D, M]  key.b1 [1, M]  key.w2 [M, N]  key.b2 [1, N]  key.skip [D, N], query.* likewise, log_scale [1, 1]
// A query encoder reads the unit's query heads side by side (G * D) with QueryForm::kReal, each head by itself (D) with
// kBits. The linear encoder has skip and b2 only, and with kBits one projection serves keys and queries (as in HATA);
// the paper's has no skip of its own: a fixed rotation stands for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "training/hash_shape.h"
#include "training/recipe.h"

namespace spotlight::training {

struct HashLayout {
  struct Slot {
    std::string name;
    int64_t offset = 0, rows = 0, columns = 0;
  };

  HashLayout(const Recipe& recipe, const HashShape& shape);

  int64_t num_units() const { return num_kv_heads * units_per_kv_head; }

  int64_t num_kv_heads = 0;       // of all layers
  int64_t units_per_kv_head = 0;  // 1, or the group's size with a hash per query head
  int64_t group = 0;              // query heads of one unit
  int64_t query_width = 0;        // inputs of a query encoder
  std::vector<Slot> slots;
  int64_t row = 0;  // P, padded so that every unit's tensors are aligned alike
};

// INVALID_ARGUMENT names the first field at fault.
absl::Status ValidateRecipe(const Recipe& recipe);
absl::Status ValidateShape(const HashShape& shape);

// Views of `flat` [u, P] by name, each [u, rows, columns].
std::map<std::string, at::Tensor> ViewsOf(const HashLayout& layout, const at::Tensor& flat);

// [D, N]: random rotations side by side, the same for every unit, key and query head. CPU, fp32.
at::Tensor RandomRotations(uint64_t seed, int64_t head_dim, int64_t hash_bits);

// [U, P] on the CPU, fp32, drawn from recipe.seed; log_scale is 0.
at::Tensor InitialParameters(const Recipe& recipe, const HashLayout& layout, const at::Tensor& rotations);

}  // namespace spotlight::training
