#include "training/activation_store.h"

#include <ATen/ops/empty_like.h>

#include <utility>

namespace spotlight::training {
namespace {

at::Tensor ToPinned(const at::Tensor& tensor) {
  at::Tensor pinned = at::empty_like(tensor, at::TensorOptions().device(at::kCPU).pinned_memory(true));
  return pinned.copy_(tensor);
}

}  // namespace

ActivationStore::ActivationStore(const SequenceModel* model, const std::vector<std::vector<int32_t>>* sequences,
                                 int32_t first_layer, const MemoryPlan& plan)
    : model_(model),
      sequences_(*sequences),
      first_layer_(first_layer),
      room_on_device_(plan.sequences_on_device),
      room_on_host_(plan.sequences_on_host) {}

absl::StatusOr<Activations> ActivationStore::Get(int64_t sequence) {
  const at::Device device = model_->device();
  if (const auto found = kept_.find(sequence); found != kept_.end()) {
    const Activations& kept = found->second;
    return Activations{kept.q.to(device, kept.q.scalar_type(), /*non_blocking=*/true),
                       kept.k.to(device, kept.k.scalar_type(), /*non_blocking=*/true)};
  }
  ++num_passes_;
  auto captured = Capture(*model_, sequences_[sequence], first_layer_, device);
  if (!captured.ok()) return captured;
  if (room_on_device_ > 0) {
    --room_on_device_;
    kept_[sequence] = *captured;
  } else if (room_on_host_ > 0) {
    --room_on_host_;
    kept_[sequence] = {ToPinned(captured->q), ToPinned(captured->k)};
  }
  return captured;
}

}  // namespace spotlight::training
