// Device memory that the kernels' operations work in.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstddef>
#include <cstdint>

namespace spotlight::engine {

// The allocators align to 64 bytes (CPU) or 512 (CUDA); the kernels want 256.
inline constexpr int64_t kWorkspaceAlignment = 256;

// Zeroed: operations want that before the first use.
inline at::Tensor MakeWorkspace(size_t bytes, at::Device device) {
  return at::empty({static_cast<int64_t>(bytes) + kWorkspaceAlignment},
                   at::TensorOptions().dtype(at::kByte).device(device))
      .zero_();
}

template <class Params>
void SetWorkspace(const at::Tensor& workspace, Params* params) {
  const auto address = reinterpret_cast<uintptr_t>(workspace.data_ptr());
  params->workspace =
      reinterpret_cast<void*>((address + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
  params->workspace_bytes = static_cast<size_t>(workspace.size(0) - kWorkspaceAlignment);
}

}  // namespace spotlight::engine
