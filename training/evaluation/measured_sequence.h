// One sequence through the model, every selector's choices measured in every hashed layer.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/evaluation/measures.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

struct MeasureOptions {
  std::vector<double> budgets;  // shares of the context
  std::vector<int32_t> layers;  // of the model, ascending
  int32_t num_queries = 32;     // drawn from the sequence's second half
  uint64_t seed = 0;            // of the draw
  int64_t max_bytes = 0;        // what a chunk of queries may take; 0: 1 GiB on a CPU, 4 GiB on a GPU
};

// Plain floats: what comes after needs no torch.
struct MeasuredSequence {
  int64_t num_selectors = 0, num_budgets = 0, num_layers = 0, num_kv_heads = 0, num_queries = 0;
  std::vector<int64_t> positions;  // [N] of the queries
  std::vector<float> values;       // [selectors, budgets, layers, kNumMeasures, Hkv, N]

  // One measure's values by KV head and query [Hkv * N].
  absl::Span<const float> Values(int64_t selector, int64_t budget, int64_t layer, Measure measure) const {
    const int64_t size = num_kv_heads * num_queries;
    const int64_t row = ((selector * num_budgets + budget) * num_layers + layer) * kNumMeasures;
    return absl::MakeConstSpan(values).subspan((row + static_cast<int64_t>(measure)) * size, size);
  }
};

// The model's pass itself is dense. `layer_done` (may be null) is told how many of the layers are measured. Errors are
// the model's and the selectors'; torch exceptions do not leave it.
absl::StatusOr<MeasuredSequence> MeasureSequence(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                                 absl::Span<Selector* const> selectors, const MeasureOptions& options,
                                                 const std::function<void(int64_t)>& layer_done);

}  // namespace spotlight::training
