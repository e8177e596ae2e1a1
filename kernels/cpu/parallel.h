// Sharing out work items, and scratch memory that outlives a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/execution.h"

namespace spotlight::kernels::cpu {

// body(begin, end) over [0, n); on the calling thread when there is one item or no pool.
template <class Body>
void ParallelItems(const Execution& execution, int64_t n, const Body& body) {
  if (n <= 0) return;
  if (execution.parallel_for == nullptr || n == 1) {
    body(0, n);
  } else {
    (*execution.parallel_for)(n, std::cref(body));
  }
}

// Memory that grows and is kept, one object per thread and use: a step allocates nothing once it has been sized.
// Contents are unspecified. Thread-compatible.
class Scratch {
 public:
  // 64-byte aligned; valid until the next call.
  template <class T>
  T* Get(size_t count) {
    const size_t bytes = count * sizeof(T) + kAlignment;
    if (bytes > bytes_) {
      memory_.reset(new std::byte[bytes]);
      bytes_ = bytes;
    }
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<T*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr size_t kAlignment = 64;
  std::unique_ptr<std::byte[]> memory_;
  size_t bytes_ = 0;
};

}  // namespace spotlight::kernels::cpu
