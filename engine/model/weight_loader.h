// Puts a source's tensors into their final places on a device, a piece at a time: host memory does not grow with them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/tensor_source.h"

namespace spotlight::engine {

// Of the weights' bytes as their source has them. `done` never falls and ends at `total`.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Engine thread only.
//
// To a GPU a piece is read into one of two pinned buffers while the other one's is on its way, and converted there if
// the source has another type; all on the device's current stream, so what follows on it finds the values. On a CPU
// pieces are read in place, or, of another type, through a buffer. CUDA's errors are thrown, as LibTorch's.
class WeightLoader {
 public:
  // `source` outlives the loader. total_bytes: of all tensors that will be loaded, each as often as it will be.
  // `progress` may be null. piece_bytes: of each buffer; 64 MB unless a test wants more pieces.
  WeightLoader(TensorSource* source, at::ScalarType dtype, at::Device device, int64_t total_bytes,
               LoadProgress progress, int64_t piece_bytes = int64_t{64} << 20);
  ~WeightLoader();
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  // Into `out`, contiguous, of the loader's type and on its device, whose shape the tensor must have.
  absl::Status LoadInto(const std::string& name, const at::Tensor& out);
  // Into a new tensor.
  absl::StatusOr<at::Tensor> Load(const std::string& name, const std::vector<int64_t>& shape);
  // A tensor to load into.
  at::Tensor Empty(const std::vector<int64_t>& shape) const;
  // Returns when all is in place, and the buffers are free.
  void Finish();

 private:
  class Staging;
  void LoadPiece(const StoredTensor& tensor, int64_t begin, int64_t end, const at::Tensor& slice);

  TensorSource* const source_;
  const at::ScalarType dtype_;
  const at::Device device_;
  const int64_t total_bytes_, piece_bytes_;
  const LoadProgress progress_;
  int64_t done_bytes_ = 0;
  std::unique_ptr<Staging> staging_;  // of a GPU, from the first piece on
  at::Tensor buffer_;                 // bytes to convert from, on the device
};

}  // namespace spotlight::engine
