#include "engine/torch_status.h"

#include <gtest/gtest.h>

#include <cuda_runtime_api.h>

#include <string>

namespace spotlight::engine {
namespace {

using absl::StatusCode;

c10::SourceLocation Here() {
  return {__func__, __FILE__, static_cast<uint32_t>(__LINE__)};
}

TEST(TorchStatusTest, MemoryThatIsShortIsToldApartWhoeverFoundItSo) {
  const std::string cublas = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`";
  const absl::Status allocator = StatusOf(c10::OutOfMemoryError(Here(), "CUDA out of memory."), "loading");
  EXPECT_EQ(allocator, absl::ResourceExhaustedError("loading: out of memory: CUDA out of memory."));
  const absl::Status cuda =
      StatusOf(c10::AcceleratorError(Here(), cudaErrorMemoryAllocation, "CUDA error: out of memory"), "loading");
  EXPECT_EQ(cuda, absl::ResourceExhaustedError("loading: out of memory: CUDA error: out of memory"));
  EXPECT_EQ(StatusOf(c10::Error(Here(), cublas), "loading"),
            absl::ResourceExhaustedError("loading: out of memory: " + cublas));
}

TEST(TorchStatusTest, AllElseIsInternal) {
  const c10::AcceleratorError lost(Here(), cudaErrorAssert, "CUDA error: device-side assert triggered");
  EXPECT_EQ(StatusOf(lost, "model step failed"),
            absl::InternalError("model step failed: CUDA error: device-side assert triggered"));
  EXPECT_EQ(StatusOf(c10::Error(Here(), "mat1 and mat2 shapes"), "step").code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace spotlight::engine
