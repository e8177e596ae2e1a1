#include "engine/model/tensor_source.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <utility>

#include "engine/model/random_weights.h"
#include "engine/ops/parallel.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {
namespace {

class CheckpointSource : public TensorSource {
 public:
  explicit CheckpointSource(const Checkpoint* checkpoint) : checkpoint_(checkpoint) {}

  absl::StatusOr<at::Tensor> Load(const std::string& name, const std::vector<int64_t>& shape,
                                  at::ScalarType dtype) override {
    auto view = checkpoint_->Find(name, shape);
    if (!view.ok()) return view.status();
    // Copied first: a file's tensors need not be aligned for their type.
    at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(ToScalarType(view->dtype)));
    std::memcpy(tensor.data_ptr(), view->data, view->num_bytes);
    checkpoint_->Release(*view);
    return tensor.to(dtype);
  }

  absl::StatusOr<TensorView> Map(const std::string& name, const std::vector<int64_t>& shape) override {
    return checkpoint_->Find(name, shape);
  }

 private:
  const Checkpoint* checkpoint_;
};

class RandomSource : public TensorSource {
 public:
  explicit RandomSource(uint64_t seed) : seed_(seed) {}

  absl::StatusOr<at::Tensor> Load(const std::string& name, const std::vector<int64_t>& shape,
                                  at::ScalarType dtype) override {
    at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(dtype));
    const bool bf16 = dtype == at::kBFloat16;
    at::Tensor values = bf16 ? tensor : tensor.to(at::kFloat);
    ParallelFor(values.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
      if (bf16) {
        FillRandomWeightsBf16(name, seed_, begin, end, static_cast<uint16_t*>(values.data_ptr()) + begin);
      } else {
        FillRandomWeights(name, seed_, begin, end, values.data_ptr<float>() + begin);
      }
    });
    return values.to(dtype);
  }

  absl::StatusOr<TensorView> Map(const std::string&, const std::vector<int64_t>&) override { return TensorView(); }

 private:
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<TensorSource> CheckpointTensors(const Checkpoint* checkpoint) {
  return std::make_unique<CheckpointSource>(checkpoint);
}

std::unique_ptr<TensorSource> RandomTensors(uint64_t seed) {
  return std::make_unique<RandomSource>(seed);
}

}  // namespace spotlight::engine
