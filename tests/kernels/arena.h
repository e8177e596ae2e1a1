// Host memory that a test lays its whole case out in, so that a backend can mirror it on a device and translate every
// pointer by its offset. A gap of known bytes lies around every allocation: what writes past its arrays shows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace spotlight::kernels::testing {

class Arena {
 public:
  struct Allocation {
    size_t offset, bytes;
  };

  explicit Arena(size_t bytes) : memory_(bytes + 2 * kAlignment), size_(bytes) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    base_ = memory_.data() + (kAlignment - address % kAlignment) % kAlignment;
    FillGap(0, kGapBytes);
  }

  // 256-byte aligned, zeroed. Aborts when the arena is too small: a fault of the test.
  template <class T>
  T* Allocate(size_t count) {
    const size_t begin = (extent_ + kAlignment - 1) / kAlignment * kAlignment;
    const size_t end = begin + count * sizeof(T);
    if (end + kGapBytes > size_) __builtin_trap();
    FillGap(extent_, begin);
    std::memset(base_ + begin, 0, end - begin);
    FillGap(end, end + kGapBytes);
    allocations_.push_back({begin, end - begin});
    return reinterpret_cast<T*>(base_ + begin);
  }

  // False when a byte between allocations was written.
  bool GapsAreIntact() const {
    size_t begin = 0;
    for (const Allocation& allocation : allocations_) {
      if (!IsGap(begin, allocation.offset)) return false;
      begin = allocation.offset + allocation.bytes;
    }
    return IsGap(begin, extent_);
  }

  std::byte* base() const { return base_; }
  size_t extent() const { return extent_; }  // bytes from base(), the last gap included
  const std::vector<Allocation>& allocations() const { return allocations_; }

 private:
  static constexpr size_t kAlignment = 256, kGapBytes = 256;
  static constexpr std::byte kGap{0x5a};

  void FillGap(size_t begin, size_t end) {
    std::fill(base_ + begin, base_ + end, kGap);
    extent_ = end;
  }
  bool IsGap(size_t begin, size_t end) const {
    return std::all_of(base_ + begin, base_ + end, [](std::byte b) { return b == kGap; });
  }

  std::vector<std::byte> memory_;
  std::byte* base_ = nullptr;
  size_t size_ = 0, extent_ = 0;
  std::vector<Allocation> allocations_;
};

// An arena's bytes at one moment, to tell afterwards that nothing but the outputs was written.
class ArenaCopy {
 public:
  explicit ArenaCopy(const Arena& arena) : bytes_(arena.base(), arena.base() + arena.extent()) {}

  // `outputs` are arrays of the arena and their sizes in bytes; null arrays are ignored.
  bool EqualsOutside(const Arena& arena, std::vector<std::pair<const void*, size_t>> outputs) const {
    std::sort(outputs.begin(), outputs.end());
    size_t begin = 0;
    for (const auto& [array, bytes] : outputs) {
      if (array == nullptr) continue;
      const size_t offset = static_cast<const std::byte*>(array) - arena.base();
      if (!Equals(arena, begin, offset)) return false;
      begin = offset + bytes;
    }
    return Equals(arena, begin, bytes_.size());
  }

 private:
  bool Equals(const Arena& arena, size_t begin, size_t end) const {
    return std::memcmp(arena.base() + begin, bytes_.data() + begin, end - begin) == 0;
  }

  const std::vector<std::byte> bytes_;
};

}  // namespace spotlight::kernels::testing
