// A test's arena mirrored on the GPU, and the workspaces of its operations, watched for writes outside.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "kernels/encode_and_append.h"
#include "kernels/layout.h"
#include "tests/kernels/arena.h"

namespace spotlight::kernels::testing {

absl::Status ToStatus(cudaError_t error);

// With SPOTLIGHT_SEPARATE_ALLOCATIONS set, every array and workspace is a device allocation of exactly its size, so
// that compute-sanitizer sees an access past it. Otherwise arrays lie side by side, and the gaps between them are
// checked.
bool SeparateAllocations();

class DeviceArena {
 public:
  DeviceArena() = default;
  ~DeviceArena() { Free(); }
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  // Copies all of `arena`, which must outlive the moves that follow.
  absl::Status Upload(const Arena* arena);
  // Copies all of it back. DATA_LOSS when something was written between the arrays.
  absl::Status Download(Arena* arena) const;

  // Host pointers into the arena become device pointers; null stays null.
  template <class... Pointers>
  void Move(Pointers*... pointers) const {
    (MoveOne(pointers), ...);
  }

 private:
  template <class T>
  void MoveOne(T** pointer) const {
    if (*pointer == nullptr) return;
    *pointer = reinterpret_cast<T*>(Locate(reinterpret_cast<const std::byte*>(*pointer) - arena_->base()));
  }
  void MoveOne(LayerPages* pages) const { Move(&pages->kv, &pages->codes, &pages->prefix, &pages->kv_scale); }
  void MoveOne(EncoderWeights* encoder) const {
    Move(&encoder->w1, &encoder->b1, &encoder->w2, &encoder->b2, &encoder->skip);
  }

  // What one device allocation mirrors.
  struct Part {
    Arena::Allocation host;
    std::byte* device;
  };
  static std::vector<Arena::Allocation> PartsOf(const Arena& arena);
  std::byte* Locate(size_t offset) const;
  void Free();

  const Arena* arena_ = nullptr;
  std::vector<Part> parts_;
};

// Device memory zeroed once, however many calls of whatever shapes use it: what an engine gives an operation.
class DeviceWorkspace {
 public:
  DeviceWorkspace() = default;
  ~DeviceWorkspace() { cudaFree(memory_); }
  DeviceWorkspace(const DeviceWorkspace&) = delete;
  DeviceWorkspace& operator=(const DeviceWorkspace&) = delete;

  // Room for `bytes`. Grows, zeroed anew, where it must.
  absl::Status Prepare(size_t bytes);
  void* data() const { return memory_ + GuardBytes(); }
  // After the work is done: DATA_LOSS when bytes around the prepared ones changed.
  absl::Status Check() const;

 private:
  static size_t GuardBytes() { return SeparateAllocations() ? 0 : 4096; }
  absl::Status ReadGuards(std::vector<std::byte>* guards) const;

  std::byte* memory_ = nullptr;
  size_t capacity_ = 0, bytes_ = 0;
  std::vector<std::byte> guards_;  // as they were before the call
};

}  // namespace spotlight::kernels::testing
