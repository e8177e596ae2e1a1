#include "engine/model/tensor_source.h"

#include <cstring>
#include <utility>

#include "engine/model/random_weights.h"
#include "engine/ops/parallel.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {
namespace {

// For one thread at least: bytes that are copied, numbers that are drawn.
constexpr int64_t kCopyGrain = 1 << 20, kDrawGrain = 1 << 16;

class CheckpointSource : public TensorSource {
 public:
  explicit CheckpointSource(const Checkpoint* checkpoint) : checkpoint_(checkpoint) {}

  absl::StatusOr<StoredTensor> Find(const std::string& name, const std::vector<int64_t>& shape,
                                    at::ScalarType) override {
    auto view = checkpoint_->Find(name, shape);
    if (!view.ok()) return view.status();
    StoredTensor tensor;
    tensor.name = name;
    tensor.dtype = ToScalarType(view->dtype);
    tensor.num_elements = static_cast<int64_t>(view->num_bytes / kernels::SizeOf(view->dtype));
    tensor.view = *std::move(view);
    return tensor;
  }

  void Read(const StoredTensor& tensor, int64_t begin, int64_t end, void* out) override {
    const auto element_bytes = static_cast<int64_t>(kernels::SizeOf(tensor.view.dtype));
    TensorView piece = tensor.view;
    piece.data += begin * element_bytes;
    piece.num_bytes = static_cast<size_t>((end - begin) * element_bytes);
    // Threads, because each waits for the pages that it is the first to touch.
    ParallelFor((end - begin) * element_bytes, kCopyGrain, [&](int64_t from, int64_t to) {
      std::memcpy(static_cast<std::byte*>(out) + from, piece.data + from, static_cast<size_t>(to - from));
    });
    checkpoint_->Release(piece);
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

  absl::StatusOr<StoredTensor> Find(const std::string& name, const std::vector<int64_t>& shape,
                                    at::ScalarType wanted) override {
    StoredTensor tensor;
    tensor.name = name;
    tensor.dtype = wanted == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
    tensor.num_elements = 1;
    for (const int64_t size : shape) tensor.num_elements *= size;
    return tensor;
  }

  void Read(const StoredTensor& tensor, int64_t begin, int64_t end, void* out) override {
    ParallelFor(end - begin, kDrawGrain, [&](int64_t from, int64_t to) {
      if (tensor.dtype == at::kBFloat16) {
        FillRandomWeightsBf16(tensor.name, seed_, begin + from, begin + to, static_cast<uint16_t*>(out) + from);
      } else {
        FillRandomWeights(tensor.name, seed_, begin + from, begin + to, static_cast<float*>(out) + from);
      }
    });
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
