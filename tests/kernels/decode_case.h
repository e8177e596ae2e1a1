// A batch of cached sequences for decode tests: random keys, values, codes, planes and queries in shuffled pages. Slots
// that no token owns hold NaN and all-ones codes, page-table tails an index far out of range, outputs NaN.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/dense_decode.h"
#include "kernels/retrieval_quality.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/arena.h"

namespace spotlight::kernels::testing {

enum class Codes {
  kRandom,
  kEqual,    // every score ties
  kFewBits,  // scores take a handful of values
  // Random, but for some tokens whose codes match the query best, many alike:
  kOneRegion,       // in the middle of the sequence, a quarter more than the budget selects
  kLastCandidates,  // the last 80 of those that compete
  kEvery33rdPage,   // every token of those pages
};

struct DecodeShape {
  DType dtype = DType::kF32;
  int32_t group = 3, num_kv_heads = 2, head_dim = 64;
  int32_t hash_words = 4, num_planes = 4;
  int32_t top_plane_weight = 8;
  // One code per query head, summed over the group: `num_planes` and `top_plane_weight` are what the group needs.
  bool symmetric = false;
  std::vector<int32_t> context_len = {300};
  bool shared_pages = false;  // rows are no longer than the first and read its pages, as sequences of one prefix do
  Codes codes = Codes::kRandom;
  int32_t max_context = 0;  // of the call, and what a row of the page table holds; 0: the longest context
  int32_t max_select = 0;   // entries of `selected` per row and head; 0: the longest context
  uint64_t seed = 1;
  size_t extra_bytes = 0;  // of the arena, for what the test adds
  bool e4m3_pages = false;
};

// splitmix64: quick enough for the keys and values of hundreds of thousands of tokens.
class QuickRandom {
 public:
  using result_type = uint64_t;
  explicit QuickRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }
  uint64_t operator()() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }

 private:
  uint64_t state_;
};

std::string NameOf(DType dtype);
// fp32 1e-5, half precisions 5e-3: relative norm against double.
double Tolerance(DType dtype);

// x [size], rounded to dtype, as pages in e4m3 hold it: out [size] and its scale.
void RoundToE4m3(DType dtype, const std::vector<float>& x, void* out, float* scale);

class DecodeCase {
 public:
  explicit DecodeCase(const DecodeShape& shape);

  // Default budget; K of a row from kernels/budget.h. out, selected and num_selected are set.
  SparseDecodeParams Sparse();
  DenseDecodeParams Dense();
  // Judges what the last Sparse() left; the metrics' arrays are for the test to set.
  RetrievalQualityParams Quality();

  // num_select of the next Sparse(): one number for all rows.
  void SelectEverywhere(int32_t num_select);
  // Other lengths, none above the shape's, and their default budgets. Slots past them hold tokens, not NaN.
  void SetLengths(const std::vector<int32_t>& context_len);
  // Symmetric cases: bits of the first `words` words of a token's code that equal the query code's, summed over the
  // group, counted head by head.
  int32_t GroupMatches(int32_t row, int32_t kv_head, int32_t token, int words) const;
  // True when nothing but the outputs differs from `before`.
  bool OnlyOutputsChanged(const ArenaCopy& before) const;

  // Outputs of the last run, as floats and as stored bytes.
  std::vector<float> Output() const;
  std::vector<char> OutputBytes(int32_t row) const;
  void ClearOutput();
  std::vector<int32_t> Selected(int32_t row, int32_t kv_head) const;
  int32_t NumSelected(int32_t row, int32_t kv_head) const;

  const DecodeShape& shape() const { return shape_; }  // with the symmetric form's planes filled in
  Arena* arena() { return &arena_; }
  int32_t num_rows() const { return static_cast<int32_t>(shape_.context_len.size()); }

 private:
  int64_t OutputElements() const { return int64_t{num_rows()} * shape_.group * shape_.num_kv_heads * shape_.head_dim; }
  // Planes are the queries of retrieval: codes may be made to match them.
  void FillPlanes(QuickRandom* random);
  void FillPages(QuickRandom* random);
  void FillToken(int32_t row, int32_t token, QuickRandom* random);
  void FillCode(int32_t row, int32_t kv_head, int32_t token, uint32_t* code, QuickRandom* random) const;
  bool MatchesBest(int32_t row, int32_t token) const;
  int64_t Entry(int32_t row, int32_t kv_head, int32_t token) const;
  int32_t PlaneWords() const { return shape_.num_planes * shape_.hash_words; }

  const DecodeShape shape_;
  Arena arena_;
  LayerPages pages_;
  int32_t max_context_ = 0, max_pages_ = 0, max_select_ = 0;
  char* q_ = nullptr;
  char* out_ = nullptr;
  uint32_t* planes_ = nullptr;
  int32_t *page_table_ = nullptr, *context_len_ = nullptr, *num_select_ = nullptr;
  int32_t *selected_ = nullptr, *num_selected_ = nullptr;
  std::vector<uint32_t> query_codes_;  // symmetric: [rows, Hkv, G, W]
};

// ||a - b|| / ||b||; infinity when a holds a NaN.
double RelativeNorm(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace spotlight::kernels::testing
