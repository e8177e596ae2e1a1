// A GPU with little memory left, and processes of their own for what happens then.
#pragma once

#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <functional>
#include <vector>

namespace spotlight::testing {

inline constexpr size_t kMiB = size_t{1} << 20;

// All of the device's memory but `left` bytes, which is about what others can allocate.
class TakenMemory {
 public:
  explicit TakenMemory(size_t left) {
    c10::cuda::CUDACachingAllocator::emptyCache();
    size_t free_bytes = 0, total_bytes = 0;
    EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
    for (size_t piece = size_t{1} << 40; piece >= kMiB; piece /= 2) {
      while (free_bytes >= left + piece) {
        void* memory = nullptr;
        if (cudaMalloc(&memory, piece) != cudaSuccess) break;
        pieces_.push_back(memory);
        EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
      }
    }
    cudaGetLastError();
    EXPECT_FALSE(pieces_.empty());
  }
  ~TakenMemory() {
    for (void* const memory : pieces_) cudaFree(memory);
  }
  TakenMemory(const TakenMemory&) = delete;
  TakenMemory& operator=(const TakenMemory&) = delete;

 private:
  std::vector<void*> pieces_;
};

// In a process of its own, which has not touched the device before, and in which nothing may fail. One that hangs is
// killed. For death tests of the style "threadsafe".
inline void RunApart(const std::function<void()>& work) {
  constexpr int kMaxSeconds = 60;
  const auto run = [&] {
    alarm(kMaxSeconds);
    work();
    // Nobody else prints them in a death test's process.
    const ::testing::TestResult& result = *::testing::UnitTest::GetInstance()->current_test_info()->result();
    for (int i = 0; i < result.total_part_count(); ++i) {
      const ::testing::TestPartResult& part = result.GetTestPartResult(i);
      if (part.failed()) std::printf("%s:%d: Failure\n%s\n", part.file_name(), part.line_number(), part.message());
    }
    std::fflush(nullptr);
    _exit(result.Failed() ? 1 : 0);  // what is static may not outlive its device
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "");
}

}  // namespace spotlight::testing
