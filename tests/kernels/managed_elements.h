// Arrays that host and device both see: of half precisions, and matrices in e4m3.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/e4m3.h"
#include "kernels/fp8_rows.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::testing {

class Elements {
 public:
  Elements(DType dtype, int64_t count) : dtype_(dtype), count_(count) {
    EXPECT_EQ(cudaMallocManaged(&data_, count * SizeOf(dtype)), cudaSuccess);
  }
  ~Elements() { cudaFree(data_); }
  Elements(const Elements&) = delete;
  Elements& operator=(const Elements&) = delete;

  void Randomise(std::mt19937_64* random, float scale) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count_; ++i) StoreElement(scale * normal(*random), data_, dtype_, i);
  }
  void CopyFrom(const Elements& other) { std::memcpy(data_, other.data_, count_ * SizeOf(dtype_)); }
  void CopyFrom(const Elements& other, int64_t begin, int64_t count) {
    std::memcpy(data_, static_cast<const char*>(other.data_) + begin * SizeOf(dtype_), count * SizeOf(dtype_));
  }
  bool SameBits(const Elements& other) const { return std::memcmp(data_, other.data_, count_ * SizeOf(dtype_)) == 0; }
  float at(int64_t i) const { return LoadElement(data_, dtype_, i); }
  void* data() const { return data_; }
  std::vector<float> values() const {
    std::vector<float> values;
    for (int64_t i = 0; i < count_; ++i) values.push_back(at(i));
    return values;
  }

 private:
  DType dtype_;
  int64_t count_;
  void* data_ = nullptr;
};

// A matrix in e4m3 with a scale for each row: another one, rounded.
class Fp8Elements {
 public:
  Fp8Elements(const Elements& from, DType dtype, int32_t rows, int32_t columns) : columns_(columns) {
    EXPECT_EQ(cudaMallocManaged(&data_, int64_t{rows} * columns), cudaSuccess);
    EXPECT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&scale_), rows * sizeof(float)), cudaSuccess);
    Fp8RowsParams params;
    params.dtype = dtype;
    params.num_rows = rows;
    params.num_columns = columns;
    params.x = from.data();
    params.out = data_;
    params.scale = scale_;
    EXPECT_TRUE(Fp8Rows(params).ok());
  }
  ~Fp8Elements() {
    cudaFree(data_);
    cudaFree(scale_);
  }
  Fp8Elements(const Fp8Elements&) = delete;
  Fp8Elements& operator=(const Fp8Elements&) = delete;

  double at(int64_t i) const { return double{scale_[i / columns_]} * ToFloat(static_cast<const E4m3*>(data_)[i]); }
  void* data() const { return data_; }
  const float* scale() const { return scale_; }

 private:
  int32_t columns_;
  void* data_ = nullptr;
  float* scale_ = nullptr;
};

}  // namespace spotlight::kernels::testing
