// When retrieval began and ended in the layers of a step on a GPU. Its kernels write that down in every step, those
// replayed from graphs included; a step that is to be timed copies it out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model_runner.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {

// Engine thread only. All work goes to the current stream of the device. Addresses stay as they are, so that graphs may
// hold them.
class RetrievalClocks {
 public:
  // What one allocates on the device.
  static int64_t Bytes(int32_t num_layers, int32_t max_runs);

  // max_runs: runs of rows with sink and recent tokens of their own (Batch::sparse_runs), a call of sparse_decode each.
  RetrievalClocks(int32_t num_layers, int32_t max_runs, at::Device device);

  // On the device: when the layer's encoder began, and the stages of a run.
  uint64_t* EncodeStart(int32_t layer);
  kernels::SparseDecodeStages* Stages(int32_t layer, int32_t run);

  // Enqueued: what the latest step wrote, in pinned memory once the stream has come so far, until when it is kept. The
  // step had `num_runs`.
  at::Tensor CopyOut(int32_t num_runs) const;
  // What CopyOut copied, summed over the layers that retrieved. A layer's total is from its encoder's start to its last
  // run's end; encode is what comes before the first run's own stages.
  static RetrievalSeconds SecondsOf(const at::Tensor& copy);

 private:
  struct Clock {
    kernels::SparseDecodeStages stages;
    uint64_t encode_start_ns = 0;  // in the first run; 0: the layer never retrieved
  };
  Clock* At(int32_t layer, int32_t run);

  const int32_t num_layers_;
  at::Tensor clocks_;  // [max_runs, layers, sizeof(Clock)] bytes
};

}  // namespace spotlight::engine
