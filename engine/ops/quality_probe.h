// Judges one row of a layer's sparse attention against exact attention (kernels/retrieval_quality.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/model_runner.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {

// Engine thread only. All work goes to the current stream of the device. c10::Error when memory is short.
class QualityProbe {
 public:
  // What a probe allocates on the device.
  static int64_t Bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                       at::ScalarType dtype, at::Device device);

  QualityProbe(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context, at::ScalarType dtype,
               at::Device device);

  // `row`: a call of one row whose `out` has been computed, alone or with others. That selection is made once more, to
  // learn what was selected: a row's selection does not depend on the rows beside it, and the call that serves them all
  // need not write its own. `context_len` and `num_select`: the row's, on the host. Nothing of `row` changes but its
  // workspace.
  absl::Status Measure(kernels::SparseDecodeParams row, int32_t context_len, int32_t num_select);

  // The latest Measure since the one before; waits for the device.
  absl::optional<RetrievalQuality> Take();

 private:
  const int32_t num_kv_heads_;
  at::Tensor out_;           // [Hq * D] of the repeated call
  at::Tensor selected_;      // [Hkv * max_context] int32
  at::Tensor num_selected_;  // [Hkv] int32
  at::Tensor metrics_;       // [6, Hkv] float, in the order of RetrievalQualityParams
  at::Tensor workspace_;
  bool measured_ = false;
};

}  // namespace spotlight::engine
