#include "kernels/validation.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace spotlight::kernels {

std::string Validation::Named(absl::string_view field) const {
  return absl::StrCat(operation_, ": ", prefix_, field);
}

void Validation::That(bool holds, absl::string_view field, int64_t value, absl::string_view bound) {
  if (holds || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(Named(field), " = ", value, ", must be ", bound));
}

void Validation::InRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  That(false, field, value, absl::StrCat("in [", low, ", ", high, "]"));
}

void Validation::OneOf(absl::string_view field, int64_t value, std::initializer_list<int64_t> allowed) {
  for (const int64_t one : allowed) {
    if (value == one) return;
  }
  That(false, field, value, absl::StrCat("one of ", absl::StrJoin(allowed, ", ")));
}

void Validation::NotNull(absl::string_view field, const void* pointer) {
  if (pointer != nullptr || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(Named(field), " is null"));
}

void Validation::Aligned(absl::string_view field, const void* pointer, uintptr_t alignment) {
  NotNull(field, pointer);
  const uintptr_t offset = reinterpret_cast<uintptr_t>(pointer) % alignment;
  if (offset == 0 || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat(Named(field), " lies ", offset, " bytes past a multiple of ", alignment, ", must be 0"));
}

void Validation::Positive(absl::string_view field, float value) {
  if ((std::isfinite(value) && value > 0) || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(Named(field), " = ", value, ", must be positive and finite"));
}

void Validation::Device(const Execution& execution, DType dtype) {
  InRange("execution.device", static_cast<int>(execution.device), 0, static_cast<int>(DeviceKind::kCuda));
  InRange("dtype", static_cast<int>(dtype), 0, static_cast<int>(DType::kF16));
}

void Validation::Heads(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim) {
  InRange("num_kv_heads", num_kv_heads, 1, 1 << 16);
  if (!ok()) return;
  InRange("num_q_heads", num_q_heads, num_kv_heads, int64_t{kMaxGroup} * num_kv_heads);
  if (num_q_heads % num_kv_heads != 0) {
    That(false, "num_q_heads", num_q_heads, absl::StrCat("a multiple of num_kv_heads = ", num_kv_heads));
  }
  OneOf("head_dim", head_dim, {64, 128});
}

void Validation::Pages(const Execution& execution, DType dtype, const LayerPages& pages) {
  Aligned("pages.kv", pages.kv, kVectorBytes);
  if (pages.kv_scale == nullptr) return;
  Aligned("pages.kv_scale", pages.kv_scale, kVectorBytes);
  const bool cuda = execution.device == DeviceKind::kCuda;
  That(dtype == DType::kBF16 || (dtype == DType::kF32 && !cuda), "dtype", static_cast<int64_t>(dtype),
       cuda ? "bf16 where pages are e4m3" : "bf16 or fp32 where pages are e4m3");
}

void Validation::Planes(const uint32_t* planes, int32_t num_planes, int32_t hash_words) {
  const auto bytes = static_cast<uintptr_t>(4 * num_planes * hash_words);
  const uintptr_t largest_power_of_two = bytes & (~bytes + 1);
  Aligned("planes", planes, std::min(kVectorBytes, largest_power_of_two));
}

void Validation::Workspace(const void* workspace, size_t bytes, size_t needed) {
  if (needed == 0) return;
  Aligned("workspace", workspace, 256);
  if (bytes < needed) {
    That(false, "workspace_bytes", static_cast<int64_t>(bytes), absl::StrCat("at least ", needed));
  }
}

void Validation::Rows(const int32_t* context_len, const int32_t* page_table, int32_t num_rows, int32_t rows_per_table,
                      int32_t max_pages, int32_t max_context, int32_t num_pages) {
  int32_t checked_pages = 0;
  for (int32_t row = 0; ok() && row < num_rows; ++row) {
    if (row % rows_per_table == 0) checked_pages = 0;
    if (context_len[row] < 0 || context_len[row] > max_context) {
      InRange(absl::StrCat("context_len[", row, "]"), context_len[row], 0, max_context);
      return;
    }
    const int32_t* table = page_table + int64_t{row / rows_per_table} * max_pages;
    const int32_t pages = (context_len[row] + kPageTokens - 1) / kPageTokens;
    for (; checked_pages < pages; ++checked_pages) {
      if (table[checked_pages] >= 0 && table[checked_pages] < num_pages) continue;
      InRange(absl::StrCat("page_table[", row / rows_per_table, "][", checked_pages, "]"), table[checked_pages], 0,
              num_pages - 1);
      return;
    }
  }
}

absl::Status CudaStatus(absl::string_view operation, int error) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(operation, ": CUDA: ", cudaGetErrorString(static_cast<cudaError_t>(error)));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

}  // namespace spotlight::kernels
