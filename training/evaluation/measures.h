// How good a selection is against exact attention (training/README.md and kernels/retrieval_quality.h name the
// measures).
//
// Oracle A: each query head's K candidates with the largest softmax weight. Oracle B: the group's K candidates with the
// largest summed softmax weight, the most that one set per KV head can reach.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "training/evaluation/selector.h"

namespace spotlight::training {

// Values of one query and KV head. Those by query head are the group's mean.
enum class Measure : uint8_t {
  kIouA,        // by query head: |selected and A| / |selected or A|
  kRecB,        // by query head: |selected and B| / K
  kIouB,        // by query head: |selected and B| / |selected or B|
  kMassC,       // by query head: share of the candidates' softmax mass that was selected
  kMass,        // by query head: softmax mass of the sinks, the selected and the recent tokens
  kErr,         // by query head: ||output - dense|| / ||dense||
  kGroupMassC,  // as retrieval_quality's candidate_mass: the group's summed mass, one share
  kGroupErr,    // as retrieval_quality's output_error: the group's outputs, one norm
  kSelected,    // by query head: tokens selected
};
inline constexpr int kNumMeasures = 9;
// Names in reports.
inline constexpr std::array<const char*, kNumMeasures> kMeasureNames = {
    "iou_a", "rec_b", "iou_b", "mass_c", "mass", "err", "group_mass_c", "group_err", "selected"};

// What every selection of a query set is compared with.
struct ExactAttention {
  at::Tensor oracle_a;        // [Hkv, G, N, T] bool
  at::Tensor oracle_b;        // [Hkv, 1, N, T] bool
  at::Tensor candidate_mass;  // [Hkv, G, N] float
  at::Tensor always_mass;     // [Hkv, G, N] float
  at::Tensor output;          // [Hkv, G, N, D] float
};
ExactAttention ExactAttentionOf(const QuerySet& queries);

// [kNumMeasures, Hkv, N] float. Where there is nothing to judge (no candidates, nothing selected by either) ratios are
// 1.
at::Tensor MeasureSelection(const QuerySet& queries, const ExactAttention& exact, const Selection& selection);

}  // namespace spotlight::training
