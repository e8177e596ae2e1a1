// Memory that host and device both see.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace spotlight::testing {

// Of plain elements, all zero at first.
template <typename T>
class ManagedArray {
 public:
  explicit ManagedArray(int64_t count) : count_(count) {
    EXPECT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&data_), count * sizeof(T)), cudaSuccess);
    std::memset(static_cast<void*>(data_), 0, count * sizeof(T));
  }
  ~ManagedArray() { cudaFree(data_); }
  ManagedArray(const ManagedArray&) = delete;
  ManagedArray& operator=(const ManagedArray&) = delete;

  T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }
  void Fill(T value) { std::fill(data_, data_ + count_, value); }
  std::vector<T> Copy() const { return {data_, data_ + count_}; }

 private:
  const int64_t count_;
  T* data_ = nullptr;
};

}  // namespace spotlight::testing
