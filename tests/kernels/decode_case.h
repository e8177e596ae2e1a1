// A batch of cached sequences for decode tests: random keys, values, codes, planes and queries in shuffled pages. Slots
// that no token owns hold NaN and all-ones codes, page-table tails an index far out of range.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense_decode.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/arena.h"

namespace spotlight::kernels::testing {

enum class Codes {
  kRandom,
  kEqual,    // every score ties
  kFewBits,  // scores take a handful of values
};

struct DecodeShape {
  DType dtype = DType::kF32;
  int32_t group = 3, num_kv_heads = 2, head_dim = 64;
  int32_t hash_words = 4, num_planes = 4;
  int32_t top_plane_weight = 8;
  std::vector<int32_t> context_len = {300};
  Codes codes = Codes::kRandom;
  uint64_t seed = 1;
};

std::string NameOf(DType dtype);
// fp32 1e-5, half precisions 5e-3: relative norm against double.
double Tolerance(DType dtype);

class DecodeCase {
 public:
  explicit DecodeCase(const DecodeShape& shape);

  // Default budget; K of a row from kernels/budget.h. out, selected and num_selected are set.
  SparseDecodeParams Sparse();
  DenseDecodeParams Dense();

  // num_select of the next Sparse(): one number for all rows.
  void SelectEverywhere(int32_t num_select);

  // Outputs of the last run, as floats and as stored bytes.
  std::vector<float> Output() const;
  std::vector<char> OutputBytes(int32_t row) const;
  void ClearOutput();
  std::vector<int32_t> Selected(int32_t row, int32_t kv_head) const;
  int32_t NumSelected(int32_t row, int32_t kv_head) const;

  const DecodeShape& shape() const { return shape_; }
  Arena* arena() { return &arena_; }
  int32_t num_rows() const { return static_cast<int32_t>(shape_.context_len.size()); }

 private:
  int64_t OutputElements() const { return int64_t{num_rows()} * shape_.group * shape_.num_kv_heads * shape_.head_dim; }
  void FillPages(std::mt19937_64* random);

  const DecodeShape shape_;
  Arena arena_;
  LayerPages pages_;
  int32_t max_context_ = 0, max_pages_ = 0, max_select_ = 0;
  char* q_ = nullptr;
  char* out_ = nullptr;
  uint32_t* planes_ = nullptr;
  int32_t *page_table_ = nullptr, *context_len_ = nullptr, *num_select_ = nullptr;
  int32_t *selected_ = nullptr, *num_selected_ = nullptr;
};

// ||a - b|| / ||b||; infinity when a holds a NaN.
double RelativeNorm(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace spotlight::kernels::testing
