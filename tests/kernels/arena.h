// Host memory that a test lays its whole case out in, so that a backend can mirror it on a device and translate every
// pointer by its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace spotlight::kernels::testing {

class Arena {
 public:
  explicit Arena(size_t bytes) : memory_(bytes + kAlignment) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    base_ = memory_.data() + (kAlignment - address % kAlignment) % kAlignment;
    size_ = bytes;
  }

  // 256-byte aligned, zeroed. Aborts when the arena is too small: a fault of the test.
  template <class T>
  T* Allocate(size_t count) {
    const size_t begin = (used_ + kAlignment - 1) / kAlignment * kAlignment;
    used_ = begin + count * sizeof(T);
    if (used_ > size_) __builtin_trap();
    std::memset(base_ + begin, 0, count * sizeof(T));
    return reinterpret_cast<T*>(base_ + begin);
  }

  std::byte* base() { return base_; }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 256;
  std::vector<std::byte> memory_;
  std::byte* base_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

}  // namespace spotlight::kernels::testing
