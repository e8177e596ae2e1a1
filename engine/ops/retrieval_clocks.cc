#include "engine/ops/retrieval_clocks.h"

#include <ATen/ops/zeros.h>

#include "engine/ops/pinned.h"

namespace spotlight::engine {

int64_t RetrievalClocks::Bytes(int32_t num_layers, int32_t max_runs) {
  return int64_t{num_layers} * max_runs * static_cast<int64_t>(sizeof(Clock));
}

RetrievalClocks::RetrievalClocks(int32_t num_layers, int32_t max_runs, at::Device device)
    : num_layers_(num_layers),
      clocks_(at::zeros({max_runs, num_layers, static_cast<int64_t>(sizeof(Clock))},
                        at::TensorOptions().dtype(at::kByte).device(device))) {}

RetrievalClocks::Clock* RetrievalClocks::At(int32_t layer, int32_t run) {
  return static_cast<Clock*>(clocks_.data_ptr()) + int64_t{run} * num_layers_ + layer;
}

uint64_t* RetrievalClocks::EncodeStart(int32_t layer) {
  return &At(layer, 0)->encode_start_ns;
}

kernels::SparseDecodeStages* RetrievalClocks::Stages(int32_t layer, int32_t run) {
  return &At(layer, run)->stages;
}

at::Tensor RetrievalClocks::CopyOut(int32_t num_runs) const {
  at::Tensor copy = PinnedEmpty({num_runs, num_layers_, static_cast<int64_t>(sizeof(Clock))}, at::kByte);
  EnqueueCopy(copy, clocks_.narrow(0, 0, num_runs));
  return copy;
}

RetrievalSeconds RetrievalClocks::SecondsOf(const at::Tensor& copy) {
  const auto* const clocks = static_cast<const Clock*>(copy.data_ptr());
  const int64_t num_runs = copy.size(0), num_layers = copy.size(1);
  const auto seconds = [](uint64_t from_ns, uint64_t to_ns) { return 1e-9 * static_cast<double>(to_ns - from_ns); };
  RetrievalSeconds sum;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const Clock& first = clocks[layer];
    if (first.encode_start_ns == 0) continue;
    sum.encode += seconds(first.encode_start_ns, first.stages.begin_ns);
    sum.total += seconds(first.encode_start_ns, clocks[(num_runs - 1) * num_layers + layer].stages.end_ns);
    for (int64_t run = 0; run < num_runs; ++run) {
      const kernels::SparseDecodeStages& stages = clocks[run * num_layers + layer].stages;
      sum.score += stages.score;
      sum.select += stages.select;
      sum.attend += stages.attend;
    }
  }
  return sum;
}

}  // namespace spotlight::engine
