#include "tests/kernels/device_arena.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace spotlight::kernels::testing {

absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("CUDA: ", cudaGetErrorString(error)));
}

bool SeparateAllocations() {
  static const bool separate = std::getenv("SPOTLIGHT_SEPARATE_ALLOCATIONS") != nullptr;
  return separate;
}

std::vector<Arena::Allocation> DeviceArena::PartsOf(const Arena& arena) {
  if (SeparateAllocations()) return arena.allocations();
  return {{0, arena.extent()}};
}

absl::Status DeviceArena::Upload(const Arena* arena) {
  arena_ = arena;
  const std::vector<Arena::Allocation> parts = PartsOf(*arena);
  const auto same = [](const Part& a, const Arena::Allocation& b) {
    return a.host.offset == b.offset && a.host.bytes == b.bytes;
  };
  if (!std::equal(parts_.begin(), parts_.end(), parts.begin(), parts.end(), same)) {
    Free();
    for (const Arena::Allocation& part : parts) {
      void* device = nullptr;
      if (auto status = ToStatus(cudaMalloc(&device, std::max<size_t>(1, part.bytes))); !status.ok()) return status;
      parts_.push_back({part, static_cast<std::byte*>(device)});
    }
  }
  for (const Part& part : parts_) {
    const std::byte* host = arena->base() + part.host.offset;
    const auto status = ToStatus(cudaMemcpy(part.device, host, part.host.bytes, cudaMemcpyHostToDevice));
    if (!status.ok()) return status;
  }
  // A copy from pageable memory may still be under way: other streams do not wait for it.
  return ToStatus(cudaDeviceSynchronize());
}

absl::Status DeviceArena::Download(Arena* arena) const {
  for (const Part& part : parts_) {
    std::byte* host = arena->base() + part.host.offset;
    const auto status = ToStatus(cudaMemcpy(host, part.device, part.host.bytes, cudaMemcpyDeviceToHost));
    if (!status.ok()) return status;
  }
  return arena->GapsAreIntact() ? absl::OkStatus() : absl::DataLossError("bytes between the arrays were written");
}

std::byte* DeviceArena::Locate(size_t offset) const {
  for (const Part& part : parts_) {
    // An offset at the end of an array is the array's: a batch's part may be empty.
    if (offset >= part.host.offset && offset <= part.host.offset + part.host.bytes) {
      return part.device + (offset - part.host.offset);
    }
  }
  return nullptr;
}

void DeviceArena::Free() {
  for (const Part& part : parts_) cudaFree(part.device);
  parts_.clear();
}

absl::Status DeviceWorkspace::Prepare(size_t bytes) {
  if (bytes > capacity_ || (SeparateAllocations() && bytes != capacity_)) {
    cudaFree(memory_);
    memory_ = nullptr;
    capacity_ = SeparateAllocations() ? bytes : std::max<size_t>(bytes, 64 << 20);
    void* memory = nullptr;
    absl::Status status = ToStatus(cudaMalloc(&memory, capacity_ + 2 * GuardBytes()));
    if (status.ok()) status = ToStatus(cudaMemset(memory, 0, capacity_ + 2 * GuardBytes()));
    if (status.ok()) status = ToStatus(cudaDeviceSynchronize());
    if (!status.ok()) {
      capacity_ = 0;
      return status;
    }
    memory_ = static_cast<std::byte*>(memory);
  }
  bytes_ = bytes;
  return ReadGuards(&guards_);
}

absl::Status DeviceWorkspace::ReadGuards(std::vector<std::byte>* guards) const {
  const size_t bytes = GuardBytes();
  guards->resize(2 * bytes);
  if (bytes == 0) return absl::OkStatus();
  absl::Status status = ToStatus(cudaMemcpy(guards->data(), memory_, bytes, cudaMemcpyDeviceToHost));
  if (!status.ok()) return status;
  return ToStatus(cudaMemcpy(guards->data() + bytes, memory_ + bytes + bytes_, bytes, cudaMemcpyDeviceToHost));
}

absl::Status DeviceWorkspace::Check() const {
  std::vector<std::byte> guards;
  if (absl::Status status = ReadGuards(&guards); !status.ok()) return status;
  return guards == guards_ ? absl::OkStatus() : absl::DataLossError("bytes around the workspace were written");
}

}  // namespace spotlight::kernels::testing
