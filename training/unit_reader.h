// One sequence's activations as the units of a hash read them: a few KV heads at a time, in fp32 on the training
// device, moved to the step's positions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "training/activations.h"
#include "training/hash_layout.h"
#include "training/position_mix.h"

namespace spotlight::training {

// Queries and keys of some heads or units: q [u, G, N, D], k [u, T, D].
struct HeadBatch {
  at::Tensor q, k;
};

// Thread-compatible.
class UnitReader {
 public:
  // `queries`: their tokens. Throws c10::Error when the activations are not of the layout's shape. The activations must
  // outlive the reader.
  UnitReader(const HashLayout& layout, int64_t head_dim, const Activations& activations,
             const std::vector<int64_t>& queries, PhaseShift shift, at::Device device);

  // KV heads [begin, begin + count) of all layers' together, each with its group's queries.
  HeadBatch ReadHeads(int64_t begin, int64_t count) const;

  // The units of such heads.
  static HeadBatch UnitsOf(const HashLayout& layout, const HeadBatch& heads);

 private:
  const at::Device device_;
  const PhaseShift shift_;
  at::Tensor q_;  // [L * Hkv, G, N, D], rotated, fp32
  at::Tensor k_;  // [L * Hkv, T, D] as given
};

}  // namespace spotlight::training
