// A sequence whose later tokens attend to a selection, teacher-forced: what perplexity, task scores and fidelity are
// measured on. It is sparse decoding as the server does it, many tokens at a time: the first P tokens are dense, each
// later one has its own selected set in every hashed layer, and its keys and values come from the sparse run itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/budget.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// One dense pass: the baseline, and the common beginning of every sparse run of the same tokens.
struct DenseRun {
  std::vector<int32_t> token_ids;  // [T]
  int64_t dense_tokens = 0;        // P
  std::vector<at::Tensor> k, v;    // by layer [Hkv, P, D], on the model's device
  at::Tensor states;               // [T - P, hidden] of the tokens [P, T)
};

// INVALID_ARGUMENT: not 1 <= P < T, or T above the model's context.
absl::StatusOr<DenseRun> RunDense(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                  int64_t dense_tokens);

struct SparseRunOptions {
  kernels::Budget budget;
  int32_t first_layer = 2;      // layers before it stay dense
  int64_t max_chunk_bytes = 0;  // queries go in chunks that need about this much; 0: 32 MiB on a CPU, 1 GiB on a GPU
};

// Normed states [T - P, hidden] of the tokens [P, T) when they retrieve with `selector`; null: dense, by the same
// steps. Results do not depend on the chunks but for the order of fp32 sums. Errors: the selector's; RESOURCE_EXHAUSTED
// names memory.
absl::StatusOr<at::Tensor> RunSparse(const SequenceModel& model, const DenseRun& dense, Selector* selector,
                                     const SparseRunOptions& options);

}  // namespace spotlight::training
