// A ParallelFor for tests: contiguous shares on fresh threads.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "kernels/execution.h"

namespace spotlight::kernels::testing {

inline ParallelFor OnThreads(int num_threads) {
  return [num_threads](int64_t n, const std::function<void(int64_t, int64_t)>& body) {
    const int64_t share = (n + num_threads - 1) / num_threads;
    std::vector<std::thread> threads;
    for (int64_t begin = 0; begin < n; begin += share) {
      threads.emplace_back([&body, begin, end = std::min(n, begin + share)] { body(begin, end); });
    }
    for (std::thread& thread : threads) thread.join();
  };
}

}  // namespace spotlight::kernels::testing
