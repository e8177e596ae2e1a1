// Threads for the CPU's kernels, which spin between calls as an OpenMP pool does.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/execution.h"

namespace spotlight::benchmarks {

// The caller takes the first share.
class SpinningPool {
 public:
  explicit SpinningPool(int num_threads)
      : num_threads_(num_threads), parallel_for_([this](int64_t n, const Body& body) { Run(n, body); }) {
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { Work(i); });
  }
  ~SpinningPool() {
    stop_ = true;
    ++epoch_;
    for (std::thread& thread : threads_) thread.join();
  }
  const kernels::ParallelFor* parallel_for() const { return &parallel_for_; }

 private:
  using Body = std::function<void(int64_t, int64_t)>;

  void Run(int64_t n, const Body& body) {
    n_ = n;
    body_ = &body;
    pending_ = num_threads_ - 1;
    ++epoch_;
    Share(0);
    while (pending_ > 0) __builtin_ia32_pause();
  }
  void Share(int index) const {
    const int64_t share = (n_ + num_threads_ - 1) / num_threads_;
    const int64_t begin = index * share, end = std::min(n_, begin + share);
    if (begin < end) (*body_)(begin, end);
  }
  void Work(int index) {
    for (int64_t seen = 0; !stop_;) {
      if (epoch_ == seen) {
        __builtin_ia32_pause();
        continue;
      }
      ++seen;
      if (stop_) return;
      Share(index);
      --pending_;
    }
  }

  const int num_threads_;
  std::atomic<int64_t> epoch_{0}, pending_{0};
  std::atomic<bool> stop_{false};
  int64_t n_ = 0;
  const Body* body_ = nullptr;
  std::vector<std::thread> threads_;
  const kernels::ParallelFor parallel_for_;
};

}  // namespace spotlight::benchmarks
