#include "tests/kernels/decode_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/budget.h"
#include "kernels/e4m3.h"
#include "kernels/numeric.h"
#include "kernels/planes.h"

namespace spotlight::kernels::testing {
namespace {

// What the rows need, one page more each, and one that nobody owns.
int32_t NumPages(const DecodeShape& shape) {
  int32_t pages = 1;
  for (const int32_t context_len : shape.context_len) {
    pages += context_len / kPageTokens + 1;
    if (shape.shared_pages) break;
  }
  return pages;
}

size_t ArenaBytes(const DecodeShape& shape) {
  const size_t slots = (NumPages(shape) + 1) * kPageTokens;
  const size_t longest = *std::max_element(shape.context_len.begin(), shape.context_len.end());
  const size_t rows = shape.context_len.size(), heads = shape.num_kv_heads;
  const size_t max_select = shape.max_select > 0 ? shape.max_select : longest;
  return slots * (KvBytesPerToken(shape.num_kv_heads, shape.head_dim, shape.dtype) + 8 * shape.num_kv_heads +
                  CodeBytesPerToken(shape.num_kv_heads, shape.hash_words)) +
         rows * (std::max<size_t>(longest, shape.max_context) / 8 + 64) +
         rows * heads * (max_select * 4 + shape.group * shape.head_dim * 8 + 1024) + (1 << 16) + shape.extra_bytes;
}

DecodeShape WithSymmetricPlanes(DecodeShape shape) {
  if (shape.symmetric) {
    shape.num_planes = SymmetricNumPlanes(shape.group);
    shape.top_plane_weight = SymmetricTopPlaneWeight(shape.group);
  }
  return shape;
}

}  // namespace

std::string NameOf(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kBF16 ? "bf16" : "f16";
}

double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : 5e-3;
}

void RoundToE4m3(DType dtype, const std::vector<float>& x, void* out, float* scale) {
  std::vector<float> values;
  for (const float element : x) {
    float rounded = 0;  // room for any dtype
    StoreElement(element, &rounded, dtype, 0);
    values.push_back(LoadElement(&rounded, dtype, 0));
  }
  float largest = 0;
  bool finite = true;
  for (const float value : values) {
    largest = std::max(largest, std::abs(value));
    finite = finite && std::isfinite(value);
  }
  *scale = largest / 448 == 0 ? 1 : largest / 448;
  if (!finite) *scale = std::numeric_limits<float>::quiet_NaN();
  for (size_t i = 0; i < x.size(); ++i) RoundTo(values[i] / *scale, static_cast<E4m3*>(out) + i);
}

DecodeCase::DecodeCase(const DecodeShape& shape) : shape_(WithSymmetricPlanes(shape)), arena_(ArenaBytes(shape)) {
  QuickRandom random(shape.seed);
  std::normal_distribution<float> normal;
  const int32_t rows = num_rows(), heads = shape_.num_kv_heads;
  const int32_t longest = *std::max_element(shape_.context_len.begin(), shape_.context_len.end());
  max_context_ = std::max({1, longest, shape_.max_context});
  max_pages_ = (max_context_ + kPageTokens - 1) / kPageTokens + 1;
  max_select_ = shape_.max_select > 0 ? shape_.max_select : std::max(1, longest);
  context_len_ = arena_.Allocate<int32_t>(rows);
  num_select_ = arena_.Allocate<int32_t>(rows);
  SetLengths(shape_.context_len);
  FillPlanes(&random);
  FillPages(&random);
  q_ = arena_.Allocate<char>(OutputElements() * SizeOf(shape_.dtype));
  for (int64_t i = 0; i < OutputElements(); ++i) StoreElement(2 * normal(random), q_, shape_.dtype, i);
  out_ = arena_.Allocate<char>(OutputElements() * SizeOf(shape_.dtype));
  selected_ = arena_.Allocate<int32_t>(int64_t{rows} * heads * max_select_);
  num_selected_ = arena_.Allocate<int32_t>(rows * heads);
  ClearOutput();
}

void DecodeCase::FillPlanes(QuickRandom* random) {
  const int64_t row_heads = int64_t{num_rows()} * shape_.num_kv_heads;
  planes_ = arena_.Allocate<uint32_t>(row_heads * PlaneWords());
  if (!shape_.symmetric) {
    for (int64_t i = 0; i < row_heads * PlaneWords(); ++i) planes_[i] = static_cast<uint32_t>((*random)());
    return;
  }
  const int32_t query_words = shape_.group * shape_.hash_words;
  query_codes_.resize(row_heads * query_words);
  for (uint32_t& word : query_codes_) word = static_cast<uint32_t>((*random)());
  for (int64_t i = 0; i < row_heads; ++i) {
    BuildSymmetricPlanes(&query_codes_[i * query_words], shape_.group, shape_.hash_words, planes_ + i * PlaneWords());
  }
}

void DecodeCase::FillPages(QuickRandom* random) {
  const int32_t heads = shape_.num_kv_heads;
  pages_.num_pages = NumPages(shape_);
  const int64_t entries = int64_t{pages_.num_pages} * heads * kPageTokens;
  const int64_t kv_bytes = entries * 2 * shape_.head_dim * (shape_.e4m3_pages ? 1 : SizeOf(shape_.dtype));
  pages_.kv = arena_.Allocate<char>(kv_bytes);
  pages_.codes = arena_.Allocate<uint32_t>(entries * shape_.hash_words);
  pages_.prefix = arena_.Allocate<uint32_t>(entries);
  std::memset(pages_.kv, 0xff, kv_bytes);  // NaN in every type
  if (shape_.e4m3_pages) {
    pages_.kv_scale = arena_.Allocate<float>(entries * 2);
    std::fill_n(pages_.kv_scale, entries * 2, std::numeric_limits<float>::quiet_NaN());
  }
  std::fill_n(pages_.codes, entries * shape_.hash_words, ~0u);
  std::fill_n(pages_.prefix, entries, ~0u);

  std::vector<int32_t> free_pages(pages_.num_pages);
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::shuffle(free_pages.begin(), free_pages.end(), *random);
  page_table_ = arena_.Allocate<int32_t>(int64_t{num_rows()} * max_pages_);
  std::fill_n(page_table_, num_rows() * max_pages_, 1 << 30);
  for (int32_t row = 0; row < num_rows(); ++row) {
    if (shape_.shared_pages && row > 0) {
      const int32_t pages = (shape_.context_len[row] + kPageTokens - 1) / kPageTokens;
      std::copy_n(page_table_, pages, page_table_ + int64_t{row} * max_pages_);
      continue;
    }
    for (int32_t token = 0; token < shape_.context_len[row]; ++token) {
      if (token % kPageTokens == 0) {
        page_table_[int64_t{row} * max_pages_ + token / kPageTokens] = free_pages.back();
        free_pages.pop_back();
      }
      FillToken(row, token, random);
    }
  }
}

void DecodeCase::FillToken(int32_t row, int32_t token, QuickRandom* random) {
  for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
    const int64_t entry = Entry(row, head, token);
    const int64_t begin = entry * 2 * shape_.head_dim;
    std::vector<float> sides[2];
    for (int32_t i = 0; i < 2 * shape_.head_dim; i += 4) {
      const uint64_t bits = (*random)();
      for (int32_t j = 0; j < 4; ++j) {  // uniform, of variance 1
        const float x = (static_cast<float>(bits >> 16 * j & 0xffff) - 32767.5f) * (3.4641016f / 65536);
        if (shape_.e4m3_pages) {
          sides[i / shape_.head_dim].push_back(x);
        } else {
          StoreElement(x, pages_.kv, shape_.dtype, begin + i + j);
        }
      }
    }
    for (int32_t side = 0; shape_.e4m3_pages && side < 2; ++side) {
      // Scales of their own: keys by up to 2, values by up to 2^14.
      const float factor =
          side == 0 ? 0.5f + static_cast<float>(token * 7 % 16) / 16 : std::ldexp(1.0f, token % 15 - 9);
      for (float& x : sides[side]) x *= factor;
      RoundToE4m3(shape_.dtype, sides[side], static_cast<char*>(pages_.kv) + begin + side * shape_.head_dim,
                  pages_.kv_scale + 2 * entry + side);
    }
    FillCode(row, head, token, pages_.codes + entry * shape_.hash_words, random);
    pages_.prefix[entry] = pages_.codes[entry * shape_.hash_words];
  }
}

void DecodeCase::FillCode(int32_t row, int32_t kv_head, int32_t token, uint32_t* code, QuickRandom* random) const {
  const bool matches = MatchesBest(row, token);
  const uint32_t* planes = planes_ + (int64_t{row} * shape_.num_kv_heads + kv_head) * PlaneWords();
  for (int32_t w = 0; w < shape_.hash_words; ++w) {
    const auto bits = static_cast<uint32_t>((*random)());
    code[w] = bits;
    if (shape_.codes == Codes::kEqual) code[w] = 0x5a5a5a5au;
    if (shape_.codes == Codes::kFewBits) code[w] = w == 0 ? bits & 3u : 0u;
    // All but a few bits of the top plane, so that those that match best differ a little among themselves.
    if (matches) code[w] = planes[(shape_.num_planes - 1) * shape_.hash_words + w] ^ (w == 0 ? bits & 0x11u : 0u);
  }
}

bool DecodeCase::MatchesBest(int32_t row, int32_t token) const {
  const int32_t context_len = shape_.context_len[row];
  const int32_t budget = kernels::NumSelected(Budget(), context_len);
  const int32_t wanted = budget + budget / 4, end = context_len - kRecentTokens;
  switch (shape_.codes) {
    case Codes::kOneRegion:
      return token >= context_len / 2 - wanted / 2 && token < context_len / 2 - wanted / 2 + wanted;
    case Codes::kLastCandidates:
      return token >= end - 80 && token < end;
    case Codes::kEvery33rdPage:
      return token / kPageTokens % 33 == 32;
    default:
      return false;
  }
}

int64_t DecodeCase::Entry(int32_t row, int32_t kv_head, int32_t token) const {
  const int64_t page = page_table_[int64_t{row} * max_pages_ + token / kPageTokens];
  return (page * shape_.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
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

RetrievalQualityParams DecodeCase::Quality() {
  const SparseDecodeParams sparse = Sparse();
  RetrievalQualityParams params;
  params.dtype = sparse.dtype;
  params.num_rows = sparse.num_rows;
  params.num_q_heads = sparse.num_q_heads;
  params.num_kv_heads = sparse.num_kv_heads;
  params.head_dim = sparse.head_dim;
  params.softmax_scale = sparse.softmax_scale;
  params.q = sparse.q;
  params.pages = sparse.pages;
  params.page_table = sparse.page_table;
  params.max_pages = sparse.max_pages;
  params.context_len = sparse.context_len;
  params.num_select = sparse.num_select;
  params.max_context = sparse.max_context;
  params.selected = sparse.selected;
  params.max_select = sparse.max_select;
  params.num_selected = sparse.num_selected;
  params.sparse_out = sparse.out;
  return params;
}

void DecodeCase::SelectEverywhere(int32_t num_select) {
  std::fill_n(num_select_, num_rows(), num_select);
}

void DecodeCase::SetLengths(const std::vector<int32_t>& context_len) {
  for (int32_t row = 0; row < num_rows(); ++row) {
    context_len_[row] = context_len[row];
    num_select_[row] = kernels::NumSelected(Budget(), context_len[row]);
  }
}

int32_t DecodeCase::GroupMatches(int32_t row, int32_t kv_head, int32_t token, int words) const {
  const uint32_t* code = pages_.codes + Entry(row, kv_head, token) * shape_.hash_words;
  const int64_t first = (int64_t{row} * shape_.num_kv_heads + kv_head) * shape_.group;
  int32_t matches = 0;
  for (int32_t g = 0; g < shape_.group; ++g) {
    const uint32_t* query = &query_codes_[(first + g) * shape_.hash_words];
    for (int w = 0; w < words; ++w) matches += __builtin_popcount(~(code[w] ^ query[w]));
  }
  return matches;
}

bool DecodeCase::OnlyOutputsChanged(const ArenaCopy& before) const {
  const size_t row_heads = size_t(num_rows()) * shape_.num_kv_heads;
  return before.EqualsOutside(arena_, {{out_, OutputElements() * SizeOf(shape_.dtype)},
                                       {selected_, row_heads * max_select_ * sizeof(int32_t)},
                                       {num_selected_, row_heads * sizeof(int32_t)}});
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
  std::memset(out_, 0xff, OutputElements() * SizeOf(shape_.dtype));
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
