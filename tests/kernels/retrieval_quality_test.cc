// retrieval_quality on every backend of the build: against the reference, and against answers known by construction.
#include "kernels/retrieval_quality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/numeric.h"
#include "kernels/reference/dense_decode.h"
#include "kernels/reference/retrieval_quality.h"
#include "kernels/reference/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

constexpr float* RetrievalQualityParams::*kMetrics[] = {
    &RetrievalQualityParams::recall,         &RetrievalQualityParams::iou,
    &RetrievalQualityParams::candidate_mass, &RetrievalQualityParams::oracle_mass,
    &RetrievalQualityParams::attention_mass, &RetrievalQualityParams::output_error};

struct Metrics {
  float recall, iou, candidate_mass, oracle_mass, attention_mass, output_error;
};

// A decode case with what sparse_decode left behind, and room for the metrics.
class QualityCase {
 public:
  explicit QualityCase(const DecodeShape& shape)
      : decode_(shape), sparse_(decode_.Sparse()), params_(decode_.Quality()) {
    for (const auto metric : kMetrics) params_.*metric = decode_.arena()->Allocate<float>(num_row_heads());
    reference::SparseDecode(sparse_);
  }

  RetrievalQualityParams& params() { return params_; }
  DecodeCase& decode() { return decode_; }
  const DecodeShape& shape() const { return decode_.shape(); }
  int32_t num_row_heads() const { return sparse_.num_rows * sparse_.num_kv_heads; }

  void SetNumSelect(int32_t num_select) {
    decode_.SelectEverywhere(num_select);
    reference::SparseDecode(sparse_);
  }
  // Replaces what was selected, everywhere in a row.
  void Select(int32_t row, int32_t kv_head, const std::vector<int32_t>& tokens) {
    const int64_t row_head = int64_t{row} * sparse_.num_kv_heads + kv_head;
    int32_t* selected = sparse_.selected + row_head * sparse_.max_select;
    std::fill_n(selected, sparse_.max_select, -1);
    std::copy(tokens.begin(), tokens.end(), selected);
    sparse_.num_selected[row_head] = static_cast<int32_t>(tokens.size());
  }

  // Gives every token of a row the logit -rank / 256 for even query heads and half of that for odd ones, exactly
  // representable in every dtype: masses fall with the rank, at least .2% a step.
  template <class RankOf>
  void PlantRanks(int32_t row, const RankOf& rank_of) {
    params_.softmax_scale = 0.125f;
    const int32_t dim = sparse_.head_dim;
    for (int32_t head = 0; head < sparse_.num_q_heads; ++head) {
      for (int32_t d = 0; d < dim; ++d) {
        StoreElement(d < 2 ? (head % 2 == 0 ? 8.0f : 4.0f) : 0.0f, const_cast<void*>(sparse_.q), sparse_.dtype,
                     (int64_t{row} * sparse_.num_q_heads + head) * dim + d);
      }
    }
    for (int32_t token = 0; token < sparse_.context_len[row]; ++token) {
      for (int32_t kv_head = 0; kv_head < sparse_.num_kv_heads; ++kv_head) {
        const int32_t rank = rank_of(token, kv_head);
        for (int32_t d = 0; d < dim; ++d) {
          const float x = d == 0 ? -static_cast<float>(rank / 256) : d == 1 ? -static_cast<float>(rank % 256) / 256 : 0;
          StoreElement(x, sparse_.pages.kv, sparse_.dtype, KeyElement(row, token, kv_head) + d);
        }
      }
    }
  }

  void FillOutput(float factor, const std::vector<float>& out) {
    for (size_t i = 0; i < out.size(); ++i) StoreElement(factor * out[i], sparse_.out, sparse_.dtype, i);
  }
  std::vector<float> DenseOutput() {
    DenseDecodeParams dense = decode_.Dense();
    dense.softmax_scale = params_.softmax_scale;
    reference::DenseDecode(dense);
    return decode_.Output();
  }

  void ClearMetrics() {
    for (const auto metric : kMetrics) std::fill_n(params_.*metric, num_row_heads(), -77.0f);
  }
  Metrics At(int32_t row, int32_t kv_head) const {
    const int32_t i = row * sparse_.num_kv_heads + kv_head;
    return {params_.recall[i],         params_.iou[i],         params_.candidate_mass[i], params_.oracle_mass[i],
            params_.attention_mass[i], params_.output_error[i]};
  }
  std::vector<Metrics> RunReference() {
    ClearMetrics();
    reference::RetrievalQuality(params_);
    return All();
  }
  std::vector<Metrics> Run(Backend* backend) {
    ClearMetrics();
    const absl::Status status = backend->Run(params_, decode_.arena());
    EXPECT_TRUE(status.ok()) << status;
    return All();
  }

 private:
  int64_t KeyElement(int32_t row, int32_t token, int32_t kv_head) const {
    const int64_t page = sparse_.page_table[int64_t{row} * sparse_.max_pages + token / kPageTokens];
    const int64_t entry = (page * sparse_.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
    return entry * 2 * sparse_.head_dim;
  }
  std::vector<Metrics> All() const {
    std::vector<Metrics> all;
    for (int32_t i = 0; i < num_row_heads(); ++i) all.push_back(At(i / sparse_.num_kv_heads, i % sparse_.num_kv_heads));
    return all;
  }

  DecodeCase decode_;
  const SparseDecodeParams sparse_;
  RetrievalQualityParams params_;
};

// Random masses may come within rounding of each other at oracle B's edge: one token may rank either way.
void ExpectClose(const std::vector<Metrics>& actual, const std::vector<Metrics>& expected, const QualityCase& test) {
  const int32_t heads = test.shape().num_kv_heads;
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "row of " << test.shape().context_len[i / heads] << " head " << i % heads);
    EXPECT_NEAR(actual[i].recall, expected[i].recall, 1.01 / 64);
    EXPECT_NEAR(actual[i].iou, expected[i].iou, 1.01 / 64);
    EXPECT_NEAR(actual[i].candidate_mass, expected[i].candidate_mass, 2e-5);
    EXPECT_NEAR(actual[i].oracle_mass, expected[i].oracle_mass, 2e-5);
    EXPECT_NEAR(actual[i].attention_mass, expected[i].attention_mass, 2e-5);
    EXPECT_NEAR(actual[i].output_error, expected[i].output_error, 2e-5 * (1 + expected[i].output_error));
  }
}

class RetrievalQualityShapeTest : public ::testing::TestWithParam<std::tuple<DType, int, int>> {};

// Page boundaries, ragged tails, one token, a padding row, dense rows, rows of several splits: all in one batch.
TEST_P(RetrievalQualityShapeTest, EqualsReference) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.group, shape.head_dim) = GetParam();
  shape.context_len = {1, 0, 63, 64, 65, 132, 133, 200, 640, 1001, 2049};
  QualityCase test(shape);
  const std::vector<Metrics> expected = test.RunReference();
  EXPECT_LT(expected[20].recall, .5);  // a row that competes: what follows compares more than ones
  EXPECT_GT(expected[20].output_error, .1);
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    ExpectClose(test.Run(backend.get()), expected, test);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RetrievalQualityShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(1, 3, 4, 6, 7, 8, 16), ::testing::Values(64, 128)));

class RetrievalQualityE4m3Test : public ::testing::TestWithParam<std::tuple<DType, int, int>> {};

// What is judged is what the pages hold.
TEST_P(RetrievalQualityE4m3Test, EqualsReference) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.group, shape.head_dim) = GetParam();
  shape.e4m3_pages = true;
  shape.context_len = {1, 0, 65, 200, 1001, 2049};
  QualityCase test(shape);
  const std::vector<Metrics> expected = test.RunReference();
  EXPECT_LT(expected[10].recall, .5);
  for (const auto& backend : Backends()) {
    if (!HasE4m3Pages(*backend, shape.dtype)) continue;
    SCOPED_TRACE(backend->name());
    ExpectClose(test.Run(backend.get()), expected, test);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RetrievalQualityE4m3Test,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16), ::testing::Values(3, 7, 16),
                                            ::testing::Values(64, 128)));

TEST(RetrievalQualityTest, EqualsReferenceOnLongRowsWithOddBudgets) {
  DecodeShape shape;
  shape.num_kv_heads = 1;
  shape.context_len = {20000, 70001, 66000};
  for (const int32_t num_select : {1, 1400, 40000}) {
    QualityCase test(shape);
    test.SetNumSelect(num_select);
    test.params().sink_tokens = 5;
    test.params().recent_tokens = 100;
    // The selection stays the default budget's, less what now is recent.
    for (int32_t row = 0; row < 3; ++row) {
      std::vector<int32_t> tokens(700);
      for (int32_t i = 0; i < 700; ++i) tokens[i] = 5 + i * 28;
      test.Select(row, 0, tokens);
    }
    const std::vector<Metrics> expected = test.RunReference();
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(backend->name());
      ExpectClose(test.Run(backend.get()), expected, test);
    }
  }
}

// Shuffled ranks, others for every head; the tokens of [4, S - 64) in the order of their ranks.
struct PlantedRow {
  PlantedRow(int32_t context_len, int32_t num_kv_heads) : ranked(num_kv_heads) {
    std::mt19937_64 random(context_len);
    for (auto& tokens : ranked) {
      std::vector<int32_t> rank(context_len);
      std::iota(rank.begin(), rank.end(), 0);
      std::shuffle(rank.begin(), rank.end(), random);
      tokens.resize(context_len - kSinkTokens - kRecentTokens);
      std::iota(tokens.begin(), tokens.end(), kSinkTokens);
      std::sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return rank[a] < rank[b]; });
      ranks.push_back(rank);
    }
  }
  // Places [begin, end) of the ranking, ascending.
  std::vector<int32_t> Places(int32_t kv_head, int32_t begin, int32_t end) const {
    std::vector<int32_t> tokens(ranked[kv_head].begin() + begin, ranked[kv_head].begin() + end);
    std::sort(tokens.begin(), tokens.end());
    return tokens;
  }
  std::vector<std::vector<int32_t>> ranks, ranked;
};

TEST(RetrievalQualityTest, KnowsPlantedOraclesExactly) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int head_dim : {64, 128}) {
      DecodeShape shape;
      shape.dtype = dtype;
      shape.group = 7;
      shape.head_dim = head_dim;
      shape.context_len = {1000, 0, 133, 3000};
      QualityCase test(shape);
      std::vector<PlantedRow> rows;
      for (int32_t row = 0; row < 4; ++row) {
        const int32_t context_len = shape.context_len[row];
        rows.emplace_back(std::max(context_len, 68), shape.num_kv_heads);
        test.PlantRanks(row, [&](int32_t token, int32_t head) { return rows[row].ranks[head][token]; });
      }
      constexpr int32_t kSelect = 60;
      test.SetNumSelect(kSelect);
      // Selected places of the ranking against oracle B's [0, 60): all, none, half, fewer, more.
      struct Planted {
        int32_t begin, end;
        float recall, iou;
      };
      for (const Planted& planted : {Planted{0, 60, 1, 1}, Planted{60, 65, 0, 0}, Planted{30, 65, .5f, 30.0f / 65},
                                     Planted{0, 30, .5f, .5f}, Planted{0, 64, 1, 60.0f / 64}, Planted{0, 0, 0, 0}}) {
        for (const int32_t row : {0, 2, 3}) {
          for (int32_t head = 0; head < 2; ++head) {
            test.Select(row, head, rows[row].Places(head, planted.begin, planted.end));
          }
        }
        const std::vector<Metrics> expected = test.RunReference();
        for (const auto& backend : Backends()) {
          SCOPED_TRACE(::testing::Message()
                       << backend->name() << " " << NameOf(dtype) << " " << planted.begin << ", " << planted.end);
          ExpectClose(test.Run(backend.get()), expected, test);
          for (const int32_t row : {0, 2, 3}) {
            for (int32_t head = 0; head < 2; ++head) {
              EXPECT_EQ(test.At(row, head).recall, planted.recall) << row;
              EXPECT_EQ(test.At(row, head).iou, planted.iou) << row;
              if (planted.end == kSelect && planted.begin == 0) {
                EXPECT_EQ(test.At(row, head).candidate_mass, test.At(row, head).oracle_mass);
              }
            }
          }
        }
      }
    }
  }
}

TEST(RetrievalQualityTest, KnowsPlantedOraclesOfLongRows) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.num_kv_heads = 1;
  shape.context_len = {30011};
  const PlantedRow row(30011, 1);
  QualityCase test(shape);
  test.PlantRanks(0, [&](int32_t token, int32_t head) { return row.ranks[head][token]; });
  for (const int32_t num_select : {1, 601, 12000}) {
    test.SetNumSelect(num_select);
    const int32_t half = (num_select + 1) / 2;
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(::testing::Message() << backend->name() << " K " << num_select);
      test.Select(0, 0, row.Places(0, 0, num_select));
      test.Run(backend.get());
      EXPECT_EQ(test.At(0, 0).recall, 1);
      EXPECT_EQ(test.At(0, 0).iou, 1);
      test.Select(0, 0, row.Places(0, half, num_select + half));
      test.Run(backend.get());
      EXPECT_EQ(test.At(0, 0).recall, static_cast<float>(double{1} * (num_select - half) / num_select));
      test.Select(0, 0, row.Places(0, num_select, num_select + 1));
      test.Run(backend.get());
      EXPECT_EQ(test.At(0, 0).recall, 0);
    }
  }
}

// Equal masses: every share is a share of tokens, and oracle B is the lowest indices.
TEST(RetrievalQualityTest, BreaksTiesByLowestIndexAndCountsEqualMasses) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.group = 4;
    shape.context_len = {1500, 5003, 333};
    QualityCase test(shape);
    test.SetNumSelect(100);
    for (int32_t row = 0; row < 3; ++row) test.PlantRanks(row, [](int32_t, int32_t) { return 300; });
    for (const int32_t offset : {0, 40, 100}) {
      for (int32_t row = 0; row < 3; ++row) {
        for (int32_t head = 0; head < 2; ++head) {
          std::vector<int32_t> tokens(100);
          std::iota(tokens.begin(), tokens.end(), kSinkTokens + offset);
          test.Select(row, head, tokens);
        }
      }
      for (const auto& backend : Backends()) {
        SCOPED_TRACE(::testing::Message() << backend->name() << " from " << offset);
        test.Run(backend.get());
        for (int32_t row = 0; row < 3; ++row) {
          const Metrics metrics = test.At(row, 1);
          const float context_len = static_cast<float>(shape.context_len[row]);
          EXPECT_EQ(metrics.recall, static_cast<float>((100 - offset) / 100.0));
          EXPECT_EQ(metrics.iou, static_cast<float>((100 - offset) / (100.0 + offset)));
          EXPECT_FLOAT_EQ(metrics.candidate_mass, 100 / (context_len - 68));
          EXPECT_FLOAT_EQ(metrics.oracle_mass, 100 / (context_len - 68));
          EXPECT_FLOAT_EQ(metrics.attention_mass, 168 / context_len);
        }
      }
    }
  }
}

// Five levels of mass, interleaved: the edge of oracle B runs through ties that lie all over the row.
TEST(RetrievalQualityTest, BreaksTiesAtTheEdgeOfTheOracle) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.context_len = {9001, 700};
  QualityCase test(shape);
  for (const int32_t num_select : {64, 200, 632}) {
    test.SetNumSelect(num_select);
    for (int32_t row = 0; row < 2; ++row) {
      test.PlantRanks(row, [](int32_t token, int32_t head) { return (token * 7 + head) % 5 * 50; });
    }
    std::vector<std::vector<int32_t>> oracles;
    for (int32_t row = 0; row < 2; ++row) {
      for (int32_t head = 0; head < 2; ++head) {
        oracles.push_back(reference::OracleTokens(test.params(), row, head));
        test.Select(row, head, oracles.back());
      }
    }
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(::testing::Message() << backend->name() << " K " << num_select);
      for (const Metrics& metrics : test.Run(backend.get())) {
        EXPECT_EQ(metrics.recall, 1);
        EXPECT_EQ(metrics.iou, 1);
      }
    }
  }
}

TEST(RetrievalQualityTest, IsOneWhenEverythingIsSelected) {
  DecodeShape shape;
  shape.context_len = {69, 300, 1100, 2049};
  QualityCase test(shape);
  test.SetNumSelect(1 << 20);
  for (const auto& backend : Backends()) {
    for (const Metrics& metrics : test.Run(backend.get())) {
      EXPECT_EQ(metrics.recall, 1);
      EXPECT_EQ(metrics.iou, 1);
      EXPECT_EQ(metrics.candidate_mass, 1);
      EXPECT_EQ(metrics.oracle_mass, 1);
      EXPECT_EQ(metrics.attention_mass, 1);
      EXPECT_LT(metrics.output_error, 1e-5) << backend->name();
    }
  }
}

// Rows without a competition: padding, dense by budget, dense for want of candidates. Nothing of theirs is read.
TEST(RetrievalQualityTest, HasNothingToJudgeInDenseAndPaddingRows) {
  DecodeShape shape;
  shape.context_len = {0, 300, 68, 1};
  QualityCase test(shape);
  for (const int32_t num_select : {0, 64}) {
    test.SetNumSelect(num_select);
    const std::vector<float> poison(test.decode().Output().size(), std::nanf(""));
    if (num_select == 0) test.FillOutput(1, poison);
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(backend->name());
      test.Run(backend.get());
      for (const int32_t row : {0, 1, 2, 3}) {
        if (row == 1 && num_select > 0) continue;
        for (int32_t head = 0; head < 2; ++head) {
          const Metrics metrics = test.At(row, head);
          for (const float ratio :
               {metrics.recall, metrics.iou, metrics.candidate_mass, metrics.oracle_mass, metrics.attention_mass}) {
            EXPECT_EQ(ratio, 1) << row;
          }
          EXPECT_EQ(metrics.output_error, 0);
        }
      }
    }
  }
}

TEST(RetrievalQualityTest, CountsAnEmptySelectionAndCandidatesWithoutMass) {
  DecodeShape shape;
  shape.context_len = {500};
  QualityCase test(shape);
  // The last token outweighs the candidates by more than a float, or the reference's double, can hold.
  test.PlantRanks(0, [](int32_t token, int32_t) { return token == 499 ? 0 : 256 * 4000; });
  test.Select(0, 0, {});
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test.Run(backend.get());
    EXPECT_EQ(test.At(0, 0).recall, 0);
    EXPECT_EQ(test.At(0, 0).iou, 0);
    EXPECT_EQ(test.At(0, 0).candidate_mass, 0);
    EXPECT_EQ(test.At(0, 0).oracle_mass, 1);
    EXPECT_EQ(test.At(0, 0).attention_mass, 1);
    EXPECT_EQ(test.At(0, 1).candidate_mass, 1);
    EXPECT_EQ(test.At(0, 1).attention_mass, 1);
  }
  ExpectClose(test.Run(Backends()[0].get()), test.RunReference(), test);
}

TEST(RetrievalQualityTest, MeasuresTheOutputError) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.group = 6;
    shape.context_len = {400, 2500};
    QualityCase test(shape);
    const std::vector<float> dense = test.DenseOutput();
    const float rounding = dtype == DType::kF32 ? 1e-6f : dtype == DType::kBF16 ? 4e-3f : 5e-4f;
    for (const auto& [factor, error] : {std::pair(1.0f, 0.0f), std::pair(0.0f, 1.0f), std::pair(-2.0f, 3.0f)}) {
      test.FillOutput(factor, dense);
      for (const auto& backend : Backends()) {
        for (const Metrics& metrics : test.Run(backend.get())) {
          EXPECT_NEAR(metrics.output_error, error, rounding * 3) << backend->name() << NameOf(dtype) << factor;
        }
      }
    }
  }
}

// A dense output of zero: nothing to be relative to.
TEST(RetrievalQualityTest, MeasuresTheErrorOfAZeroOutput) {
  DecodeShape shape;
  shape.context_len = {200};
  QualityCase test(shape);
  const RetrievalQualityParams& params = test.params();
  const int64_t elements = int64_t{params.pages.num_pages} * params.num_kv_heads * kPageTokens * 2 * params.head_dim;
  std::fill_n(static_cast<float*>(params.pages.kv), elements, 0.0f);
  for (const float out : {0.0f, 1.0f}) {
    test.FillOutput(out, std::vector<float>(test.decode().Output().size(), 1.0f));
    for (const auto& backend : Backends()) {
      test.Run(backend.get());
      EXPECT_EQ(test.At(0, 1).output_error, out == 0 ? 0 : std::numeric_limits<float>::infinity()) << backend->name();
    }
  }
}

TEST(RetrievalQualityTest, GivesARowTheSameBitsAloneAndInABatch) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.group = 7;
    shape.context_len = {1500, 1, 800, 0, 3001, 700};
    QualityCase test(shape);
    for (const auto& backend : Backends()) {
      const std::vector<Metrics> batch = test.Run(backend.get());
      const RetrievalQualityParams whole = test.params();
      for (int32_t row = 0; row < 6; ++row) {
        RetrievalQualityParams& alone = test.params();
        const int32_t heads = whole.num_kv_heads;
        const int64_t offset = row * int64_t{whole.num_q_heads} * whole.head_dim * SizeOf(dtype);
        alone.num_rows = 1;
        alone.max_context = std::max(1, shape.context_len[row]);
        alone.q = static_cast<const char*>(whole.q) + offset;
        alone.sparse_out = static_cast<const char*>(whole.sparse_out) + offset;
        alone.page_table = whole.page_table + int64_t{row} * whole.max_pages;
        alone.context_len = whole.context_len + row;
        alone.num_select = whole.num_select + row;
        alone.selected = whole.selected + int64_t{row} * heads * whole.max_select;
        alone.num_selected = whole.num_selected + row * heads;
        const std::vector<Metrics> result = test.Run(backend.get());
        test.params() = whole;
        EXPECT_EQ(std::memcmp(result.data(), &batch[row * heads], heads * sizeof(Metrics)), 0)
            << backend->name() << " row " << row;
      }
    }
  }
}

TEST(RetrievalQualityTest, GivesTheSameBitsEveryTime) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.group = 7;
  shape.context_len = {9000, 300};
  QualityCase test(shape);
  for (const auto& backend : Backends()) {
    const std::vector<Metrics> first = test.Run(backend.get());
    for (int i = 0; i < 20; ++i) {
      const std::vector<Metrics> again = test.Run(backend.get());
      ASSERT_EQ(std::memcmp(again.data(), first.data(), first.size() * sizeof(Metrics)), 0) << backend->name();
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
