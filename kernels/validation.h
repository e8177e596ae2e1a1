// Checks of the operations' parameters: the first field at fault makes an INVALID_ARGUMENT that names it, its value and
// its bound. Cheap enough for every call; a message is built only on failure. Thread-compatible.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

// Kernels read and write queries, outputs, pages and weights in units of this.
inline constexpr uintptr_t kVectorBytes = 16;

class Validation {
 public:
  // `operation` begins every message.
  explicit Validation(absl::string_view operation) : operation_(operation) {}

  // What the fields named from here on are part of: precedes their names.
  void Within(absl::string_view prefix) { prefix_ = prefix; }

  void InRange(absl::string_view field, int64_t value, int64_t low, int64_t high);
  void OneOf(absl::string_view field, int64_t value, std::initializer_list<int64_t> allowed);
  void NotNull(absl::string_view field, const void* pointer);
  void Aligned(absl::string_view field, const void* pointer, uintptr_t alignment);  // and not null
  // As its elements are.
  template <class T>
  void Array(absl::string_view field, const T* pointer) {
    Aligned(field, pointer, alignof(T));
  }
  void Positive(absl::string_view field, float value);  // and finite
  // Anything else; `bound` says what must hold.
  void That(bool holds, absl::string_view field, int64_t value, absl::string_view bound);

  // Fields that several operations share.
  void Device(const Execution& execution, DType dtype);
  void Heads(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim);
  // A layer's keys and values, and whether the operation has such pages for its dtype.
  void Pages(const Execution& execution, DType dtype, const LayerPages& pages);
  // [rows, Hkv, J, W]: as far as 16 bytes, what the planes of every row and head then share.
  void Planes(const uint32_t* planes, int32_t num_planes, int32_t hash_words);
  // What every operation of queries on cached rows is told.
  template <class Params>
  void CachedRows(const Params& params, int32_t most_pages = INT32_MAX) {
    Device(params.execution, params.dtype);
    Heads(params.num_q_heads, params.num_kv_heads, params.head_dim);
    Positive("softmax_scale", params.softmax_scale);
    Aligned("q", params.q, kVectorBytes);
    Pages(params.execution, params.dtype, params.pages);
    InRange("pages.num_pages", params.pages.num_pages, 1, most_pages);
    Array("page_table", params.page_table);
    InRange("max_pages", params.max_pages, 1, INT32_MAX);
    Array("context_len", params.context_len);
    InRange("max_context", params.max_context, 1, int64_t{params.max_pages} * kPageTokens);
  }
  // How those rows select.
  template <class Params>
  void Selection(const Params& params) {
    Array("num_select", params.num_select);
    InRange("sink_tokens", params.sink_tokens, 0, INT32_MAX / 4);
    InRange("recent_tokens", params.recent_tokens, 0, INT32_MAX / 4);
  }
  void Workspace(const void* workspace, size_t bytes, size_t needed);
  // Host arrays of `num_rows` rows that read page_table[(row / rows_per_table) * max_pages].
  void Rows(const int32_t* context_len, const int32_t* page_table, int32_t num_rows, int32_t rows_per_table,
            int32_t max_pages, int32_t max_context, int32_t num_pages);

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  // operation: prefix field
  std::string Named(absl::string_view field) const;

  absl::string_view operation_, prefix_;
  absl::Status status_;
};

// A launcher's cudaError_t as a status that names the operation: RESOURCE_EXHAUSTED for want of memory, else INTERNAL.
absl::Status CudaStatus(absl::string_view operation, int error);

}  // namespace spotlight::kernels
