// prefill_attention against the reference, and against itself in other chunks and on other threads.
#include "kernels/prefill_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/e4m3.h"
#include "kernels/reference/prefill_attention.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/threads.h"

namespace spotlight::kernels::testing {
namespace {

using ::testing::HasSubstr;

// A prompt whose last num_tokens tokens are the chunk. What no token owns holds NaN, and the page table's tail an index
// out of range.
class PrefillCase {
 public:
  PrefillCase(int32_t past, int32_t num_tokens, int32_t group, int32_t head_dim, bool e4m3_pages = false)
      : case_(Shape(past, num_tokens, group, head_dim, e4m3_pages)) {
    const DenseDecodeParams dense = case_.Dense();
    params_.num_tokens = num_tokens;
    params_.num_q_heads = dense.num_q_heads;
    params_.num_kv_heads = dense.num_kv_heads;
    params_.head_dim = dense.head_dim;
    params_.softmax_scale = dense.softmax_scale;
    params_.q = dense.q;
    params_.pages = dense.pages;
    params_.page_table = dense.page_table;
    params_.max_pages = dense.max_pages;
    params_.context_len = past + num_tokens;
    params_.out = dense.out;
  }

  PrefillAttentionParams& params() { return params_; }

  // Tokens [begin, end) of the chunk, as a chunk of its own.
  PrefillAttentionParams Part(int32_t begin, int32_t end) const {
    PrefillAttentionParams part = params_;
    const int64_t row_bytes = int64_t{2} * part.num_q_heads * part.head_dim;
    part.num_tokens = end - begin;
    part.context_len = params_.context_len - params_.num_tokens + end;
    part.q = static_cast<const char*>(part.q) + begin * row_bytes;
    part.out = static_cast<char*>(part.out) + begin * row_bytes;
    return part;
  }

  std::vector<float> Expected() {
    reference::PrefillAttention(params_);
    std::vector<float> expected = case_.Output();
    case_.ClearOutput();
    return expected;
  }

  std::vector<float> Run(int num_threads) {
    case_.ClearOutput();
    const ParallelFor parallel_for = OnThreads(num_threads);
    PrefillAttentionParams params = params_;
    if (num_threads > 1) params.execution.parallel_for = &parallel_for;
    const absl::Status status = PrefillAttention(params);
    EXPECT_TRUE(status.ok()) << status;
    return case_.Output();
  }

  DecodeCase& decode_case() { return case_; }

 private:
  // Row 0 owns the prompt; the other rows are there for their queries and outputs.
  static DecodeShape Shape(int32_t past, int32_t num_tokens, int32_t group, int32_t head_dim, bool e4m3_pages) {
    DecodeShape shape;
    shape.e4m3_pages = e4m3_pages;
    shape.dtype = DType::kBF16;
    shape.group = group;
    shape.head_dim = head_dim;
    shape.context_len.assign(num_tokens, 0);
    shape.context_len[0] = past + num_tokens;
    return shape;
  }

  DecodeCase case_;
  PrefillAttentionParams params_;
};

class PrefillAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (PrefillAttentionSupported(Execution(), DType::kBF16, 64)) return;
    PrefillCase test(0, 1, 1, 64);
    EXPECT_EQ(PrefillAttention(test.params()).code(), absl::StatusCode::kUnimplemented);
    GTEST_SKIP() << "this CPU lacks AVX512_BF16";
  }
};

class PrefillAttentionShapeTest : public PrefillAttentionTest,
                                  public ::testing::WithParamInterface<std::tuple<int, int, int, int>> {};

TEST_P(PrefillAttentionShapeTest, EqualsReferenceOnAnyNumberOfThreads) {
  const auto [past, num_tokens, group, head_dim] = GetParam();
  PrefillCase test(past, num_tokens, group, head_dim);
  const std::vector<float> expected = test.Expected();
  const std::vector<float> alone = test.Run(1);
  EXPECT_LE(RelativeNorm(alone, expected), Tolerance(DType::kBF16));
  EXPECT_EQ(test.Run(2), alone);
  EXPECT_EQ(test.Run(5), alone);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefillAttentionShapeTest,
                         ::testing::Combine(::testing::Values(0, 1, 63, 64, 130, 1000), ::testing::Values(1, 5, 64, 97),
                                            ::testing::Values(1, 3, 7), ::testing::Values(64, 128)));

// As their values rounded to bf16.
TEST_F(PrefillAttentionTest, ReadsPagesInE4m3) {
  for (const int head_dim : {64, 128}) {
    for (const int past : {0, 63, 1000, 4300}) {
      PrefillCase test(past, 30, 3, head_dim, /*e4m3_pages=*/true);
      const std::vector<float> alone = test.Run(1);
      EXPECT_EQ(test.Run(3), alone) << past;

      LayerPages& pages = test.params().pages;
      const int64_t rows = int64_t{pages.num_pages} * test.params().num_kv_heads * kPageTokens * 2;
      std::vector<BF16> widened(rows * head_dim);
      for (int64_t i = 0; i < rows * head_dim; ++i) {
        RoundTo(ToFloat(static_cast<const E4m3*>(pages.kv)[i]) * pages.kv_scale[i / head_dim], &widened[i]);
      }
      pages.kv = widened.data();
      pages.kv_scale = nullptr;
      EXPECT_EQ(test.Run(1), alone) << past;
      EXPECT_LE(RelativeNorm(alone, test.Expected()), Tolerance(DType::kBF16)) << past;
    }
  }
}

// Keys are packed in segments of 2,048 tokens (D = 64) or 1,024 (D = 128).
TEST_F(PrefillAttentionTest, CarriesTheSoftmaxOverSegments) {
  for (const int head_dim : {64, 128}) {
    for (const int past : {1000, 2040, 2048, 4300}) {
      PrefillCase test(past, 30, 3, head_dim);
      const std::vector<float> expected = test.Expected();
      const std::vector<float> alone = test.Run(1);
      EXPECT_LE(RelativeNorm(alone, expected), Tolerance(DType::kBF16)) << past;
      EXPECT_EQ(test.Run(3), alone) << past;
    }
  }
}

TEST_F(PrefillAttentionTest, GivesATokenTheSameBitsInAnyChunk) {
  for (const int head_dim : {64, 128}) {
    PrefillCase test(700, 600, 3, head_dim);
    const std::vector<float> whole = test.Run(2);
    for (const std::vector<int>& cuts : std::vector<std::vector<int>>{{1, 5, 64, 97, 324, 325}, {348}, {13, 26, 39}}) {
      test.decode_case().ClearOutput();
      int begin = 0;
      for (const int end : cuts) {
        ASSERT_TRUE(PrefillAttention(test.Part(begin, end)).ok());
        begin = end;
      }
      ASSERT_TRUE(PrefillAttention(test.Part(begin, 600)).ok());
      EXPECT_EQ(test.decode_case().Output(), whole);
    }
  }
}

TEST_F(PrefillAttentionTest, StaysFiniteForLargeLogits) {
  PrefillCase test(200, 40, 3, 64);
  test.params().softmax_scale = 40;  // logits of several thousand: one token takes all
  const std::vector<float> expected = test.Expected();
  EXPECT_LE(RelativeNorm(test.Run(1), expected), 1e-3);
}

TEST_F(PrefillAttentionTest, NamesTheBadField) {
  PrefillCase test(100, 5, 3, 64);
  const std::vector<std::pair<std::string, std::function<void(PrefillAttentionParams*)>>> faults = {
      {"num_tokens", [](auto* p) { p->num_tokens = -1; }},
      {"dtype", [](auto* p) { p->dtype = static_cast<DType>(5); }},
      {"num_q_heads", [](auto* p) { p->num_q_heads = 5; }},
      {"head_dim", [](auto* p) { p->head_dim = 80; }},
      {"softmax_scale", [](auto* p) { p->softmax_scale = 0; }},
      {"q is null", [](auto* p) { p->q = nullptr; }},
      {"pages.kv is null", [](auto* p) { p->pages.kv = nullptr; }},
      {"pages.num_pages", [](auto* p) { p->pages.num_pages = 0; }},
      {"page_table is null", [](auto* p) { p->page_table = nullptr; }},
      {"page_table[0][2]", [](auto* p) { p->context_len = 129; }},
      {"max_pages", [](auto* p) { p->max_pages = 0; }},
      {"context_len", [](auto* p) { p->context_len = 4; }},
      {"context_len", [](auto* p) { p->context_len = p->max_pages * kPageTokens + 1; }},
      {"out is null", [](auto* p) { p->out = nullptr; }}};
  for (const auto& [field, make] : faults) {
    PrefillAttentionParams bad = test.params();
    make(&bad);
    const absl::Status status = PrefillAttention(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(": " + field));
  }
}

TEST(PrefillAttentionSupportTest, IsForBFloat16OnTheCpu) {
  Execution cuda;
  cuda.device = DeviceKind::kCuda;
  EXPECT_FALSE(PrefillAttentionSupported(cuda, DType::kBF16, 64));
  EXPECT_FALSE(PrefillAttentionSupported(Execution(), DType::kF32, 64));
  EXPECT_FALSE(PrefillAttentionSupported(Execution(), DType::kF16, 64));
  EXPECT_FALSE(PrefillAttentionSupported(Execution(), DType::kBF16, 96));
  PrefillCase test(10, 2, 1, 64);
  test.params().dtype = DType::kF32;
  EXPECT_EQ(PrefillAttention(test.params()).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace spotlight::kernels::testing
