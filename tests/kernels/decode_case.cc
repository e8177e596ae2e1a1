#include "tests/kernels/decode_case.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/budget.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::testing {
namespace {

size_t ArenaBytes(const DecodeShape& shape) {
  size_t slots = 0, longest = 0;
  for (const int32_t context_len : shape.context_len) {
    slots += (context_len / kPageTokens + 2) * kPageTokens;
    longest = std::max<size_t>(longest, context_len);
  }
  const size_t rows = shape.context_len.size(), heads = shape.num_kv_heads;
  return slots * (KvBytesPerToken(shape.num_kv_heads, shape.head_dim, shape.dtype) +
                  CodeBytesPerToken(shape.num_kv_heads, shape.hash_words)) +
         rows * heads * (longest * 8 + shape.group * shape.head_dim * 8 + 1024) + (1 << 16);
}

}  // namespace

std::string NameOf(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kBF16 ? "bf16" : "f16";
}

double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : 5e-3;
}

DecodeCase::DecodeCase(const DecodeShape& shape) : shape_(shape), arena_(ArenaBytes(shape)) {
  std::mt19937_64 random(shape.seed);
  std::normal_distribution<float> normal;
  const int32_t rows = num_rows(), heads = shape_.num_kv_heads;
  max_context_ = std::max(1, *std::max_element(shape_.context_len.begin(), shape_.context_len.end()));
  max_pages_ = (max_context_ + kPageTokens - 1) / kPageTokens + 1;
  max_select_ = max_context_;
  context_len_ = arena_.Allocate<int32_t>(rows);
  num_select_ = arena_.Allocate<int32_t>(rows);
  std::copy(shape_.context_len.begin(), shape_.context_len.end(), context_len_);
  for (int32_t row = 0; row < rows; ++row) num_select_[row] = kernels::NumSelected(Budget(), context_len_[row]);

  FillPages(&random);
  const int32_t num_planes_words = rows * heads * shape_.num_planes * shape_.hash_words;
  planes_ = arena_.Allocate<uint32_t>(num_planes_words);
  for (int32_t i = 0; i < num_planes_words; ++i) planes_[i] = static_cast<uint32_t>(random());
  q_ = arena_.Allocate<char>(OutputElements() * SizeOf(shape_.dtype));
  for (int64_t i = 0; i < OutputElements(); ++i) StoreElement(2 * normal(random), q_, shape_.dtype, i);
  out_ = arena_.Allocate<char>(OutputElements() * SizeOf(shape_.dtype));
  selected_ = arena_.Allocate<int32_t>(int64_t{rows} * heads * max_select_);
  num_selected_ = arena_.Allocate<int32_t>(rows * heads);
  ClearOutput();
}

void DecodeCase::FillPages(std::mt19937_64* random) {
  std::normal_distribution<float> normal;
  const int32_t heads = shape_.num_kv_heads, dim = shape_.head_dim, words = shape_.hash_words;
  for (const int32_t context_len : shape_.context_len) pages_.num_pages += context_len / kPageTokens + 1;
  pages_.num_pages += 1;  // one that nobody owns
  const int64_t entries = int64_t{pages_.num_pages} * heads * kPageTokens;
  char* kv = arena_.Allocate<char>(entries * 2 * dim * SizeOf(shape_.dtype));
  pages_.kv = kv;
  pages_.codes = arena_.Allocate<uint32_t>(entries * words);
  pages_.prefix = arena_.Allocate<uint32_t>(entries);
  for (int64_t i = 0; i < entries * 2 * dim; ++i) {
    StoreElement(std::numeric_limits<float>::quiet_NaN(), kv, shape_.dtype, i);
  }
  std::fill_n(pages_.codes, entries * words, ~0u);
  std::fill_n(pages_.prefix, entries, ~0u);

  std::vector<int32_t> free_pages(pages_.num_pages);
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::shuffle(free_pages.begin(), free_pages.end(), *random);
  page_table_ = arena_.Allocate<int32_t>(int64_t{num_rows()} * max_pages_);
  std::fill_n(page_table_, num_rows() * max_pages_, 1 << 30);
  for (int32_t row = 0; row < num_rows(); ++row) {
    for (int32_t token = 0; token < shape_.context_len[row]; ++token) {
      if (token % kPageTokens == 0) {
        page_table_[row * max_pages_ + token / kPageTokens] = free_pages.back();
        free_pages.pop_back();
      }
      const int64_t page = page_table_[row * max_pages_ + token / kPageTokens];
      for (int32_t head = 0; head < heads; ++head) {
        const int64_t entry = (page * heads + head) * kPageTokens + token % kPageTokens;
        for (int32_t i = 0; i < 2 * dim; ++i) StoreElement(normal(*random), kv, shape_.dtype, entry * 2 * dim + i);
        for (int32_t w = 0; w < words; ++w) {
          uint32_t code = static_cast<uint32_t>((*random)());
          if (shape_.codes == Codes::kEqual) code = 0x5a5a5a5au;
          if (shape_.codes == Codes::kFewBits) code = w == 0 ? code & 3u : 0u;
          pages_.codes[entry * words + w] = code;
        }
        pages_.prefix[entry] = pages_.codes[entry * words];
      }
    }
  }
}

SparseDecodeParams DecodeCase::Sparse() {
  SparseDecodeParams params;
  params.dtype = shape_.dtype;
  params.num_rows = num_rows();
  params.num_kv_heads = shape_.num_kv_heads;
  params.num_q_heads = shape_.num_kv_heads * shape_.group;
  params.head_dim = shape_.head_dim;
  params.hash_words = shape_.hash_words;
  params.num_planes = shape_.num_planes;
  params.top_plane_weight = shape_.top_plane_weight;
  params.softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
  params.q = q_;
  params.planes = planes_;
  params.pages = pages_;
  params.page_table = page_table_;
  params.max_pages = max_pages_;
  params.context_len = context_len_;
  params.num_select = num_select_;
  params.max_context = max_context_;
  params.out = out_;
  params.selected = selected_;
  params.max_select = max_select_;
  params.num_selected = num_selected_;
  return params;
}

DenseDecodeParams DecodeCase::Dense() {
  DenseDecodeParams params;
  params.dtype = shape_.dtype;
  params.num_rows = num_rows();
  params.num_kv_heads = shape_.num_kv_heads;
  params.num_q_heads = shape_.num_kv_heads * shape_.group;
  params.head_dim = shape_.head_dim;
  params.softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
  params.q = q_;
  params.pages = pages_;
  params.page_table = page_table_;
  params.max_pages = max_pages_;
  params.context_len = context_len_;
  params.max_context = max_context_;
  params.out = out_;
  return params;
}

void DecodeCase::SelectEverywhere(int32_t num_select) {
  std::fill_n(num_select_, num_rows(), num_select);
}

std::vector<float> DecodeCase::Output() const {
  std::vector<float> output(OutputElements());
  for (int64_t i = 0; i < OutputElements(); ++i) output[i] = LoadElement(out_, shape_.dtype, i);
  return output;
}

std::vector<char> DecodeCase::OutputBytes(int32_t row) const {
  const int64_t bytes = OutputElements() * SizeOf(shape_.dtype) / num_rows();
  return std::vector<char>(out_ + row * bytes, out_ + (row + 1) * bytes);
}

void DecodeCase::ClearOutput() {
  for (int64_t i = 0; i < OutputElements(); ++i) StoreElement(-77, out_, shape_.dtype, i);
  const int64_t row_heads = int64_t{num_rows()} * shape_.num_kv_heads;
  std::fill_n(selected_, row_heads * max_select_, -77);
  std::fill_n(num_selected_, row_heads, -77);
}

std::vector<int32_t> DecodeCase::Selected(int32_t row, int32_t kv_head) const {
  const int32_t* begin = selected_ + (int64_t{row} * shape_.num_kv_heads + kv_head) * max_select_;
  return std::vector<int32_t>(begin, begin + max_select_);
}

int32_t DecodeCase::NumSelected(int32_t row, int32_t kv_head) const {
  return num_selected_[row * shape_.num_kv_heads + kv_head];
}

double RelativeNorm(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  return norm == 0 ? (difference == 0 ? 0 : std::numeric_limits<double>::infinity()) : std::sqrt(difference / norm);
}

}  // namespace spotlight::kernels::testing
