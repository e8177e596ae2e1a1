// Judges one row of a layer's sparse attention against exact attention (kernels/retrieval_quality.h), after the step
// that the row was in. On a GPU all but the selection runs on a stream of its own, beside the steps that follow.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/model_runner.h"
#include "engine/ops/attention.h"
#include "engine/ops/row_pages.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {

// A measurement, perhaps still under way.
class PendingQuality {
 public:
  // `metrics` and `row` are on the host, pinned if the device is a GPU, which until `done` writes and reads them.
  PendingQuality(const QualityTarget& target, at::Tensor metrics, at::Tensor row,
                 std::shared_ptr<at::cuda::CUDAEvent> done)
      : target_(target), metrics_(std::move(metrics)), row_(std::move(row)), done_(std::move(done)) {}
  // Waits for it.
  ~PendingQuality();
  // Waits for it.
  QualityReading Wait() const;

 private:
  const QualityTarget target_;
  const at::Tensor metrics_;  // [6, Hkv] float on the host, in the order of RetrievalQualityParams
  const at::Tensor row_;
  const std::shared_ptr<at::cuda::CUDAEvent> done_;  // null: it is there
};

// Engine thread only. Work goes to the current stream of the device, and to the probe's. c10::Error when memory is
// short.
class QualityProbe {
 public:
  // What a probe allocates on the device.
  static int64_t Bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                       at::ScalarType dtype, at::Device device);

  QualityProbe(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context, at::ScalarType dtype,
               at::Device device);
  ~QualityProbe();

  // Before a step is enqueued: where it writes to what a measurement still reads (pages that changed hands), it waits
  // for that on the device.
  void Await(const Batch& batch);

  // Keeps what the row was attended with: its rotated queries [Hq, D] and planes [Hkv, J, W].
  void Keep(const at::Tensor& q, const at::Tensor& planes);
  // A call of that one row, from the batch as the host knows it: page_table, context_len, num_select, max_context.
  StepTensors RowOf(const Batch& batch, int32_t row);
  const at::Tensor& q() const { return q_; }
  at::Tensor planes(int32_t num_planes, int32_t hash_words) const;
  const at::Tensor& out() const { return out_; }

  // `row`: the call that RowOf, q, planes and out make up. It is made here, on the current stream, which no other such
  // call runs beside: a row's selection and output do not depend on the rows beside it, so they are what the step's
  // were.
  absl::StatusOr<std::unique_ptr<PendingQuality>> Measure(kernels::SparseDecodeParams row, const QualityTarget& target);

 private:
  // Pinned on a GPU, and copies by way of it are enqueued.
  at::Tensor EmptyHost(at::IntArrayRef shape, at::ScalarType dtype) const;
  void Copy(const at::Tensor& to, const at::Tensor& from) const;
  void AwaitLatest();

  const at::Device device_;
  const int32_t num_kv_heads_;
  at::Tensor q_, out_;       // [1, Hq, D]
  at::Tensor planes_;        // [Hkv * kMaxPlanes * kMaxHashWords] int32
  at::Tensor row_;           // [2 + max_pages] int32: context_len, num_select, page table
  at::Tensor host_row_;      // what was copied there, until the measurement has it
  at::Tensor selected_;      // [Hkv * max_context] int32
  at::Tensor num_selected_;  // [Hkv] int32
  at::Tensor metrics_;       // [6, Hkv] float
  at::Tensor workspace_;
  std::optional<c10::cuda::CUDAStream> stream_;  // on a GPU
  at::cuda::CUDAEvent selected_event_;
  // Of the latest measurement: its end, and what it reads.
  std::shared_ptr<at::cuda::CUDAEvent> done_;
  int32_t context_len_ = 0, num_select_ = 0;
  RowPages pages_;  // empty: nobody reads them any more
};

}  // namespace spotlight::engine
