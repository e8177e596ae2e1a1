// GatherPages element by element, and MergeAttention against softmax in double.
#include "kernels/prefill_parts.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"
#include "tests/testing/managed_array.h"

namespace spotlight::kernels::testing {
namespace {

using spotlight::testing::ManagedArray;

struct GatherCase {
  int32_t kv_heads, head_dim, begin, end;
};

// Pages 1 to `pages`: page 0 is nobody's.
void ShufflePages(ManagedArray<int32_t>* table, int32_t pages) {
  std::iota(table->data(), table->data() + pages, 1);
  std::shuffle(table->data(), table->data() + pages, std::mt19937(4));
}

GatherPagesParams ParamsOf(const GatherCase& c, void* kv, const ManagedArray<int32_t>& table,
                           ManagedArray<uint16_t>* keys, ManagedArray<uint16_t>* values) {
  GatherPagesParams params;
  params.execution.device = DeviceKind::kCuda;
  params.num_kv_heads = c.kv_heads;
  params.head_dim = c.head_dim;
  params.begin = c.begin;
  params.end = c.end;
  params.pages.kv = kv;
  params.pages.num_pages = (c.end + kPageTokens - 1) / kPageTokens + 1;
  params.page_table = table.data();
  params.keys = keys->data();
  params.values = values->data();
  return params;
}

class GatherPagesTest : public ::testing::TestWithParam<GatherCase> {};

TEST_P(GatherPagesTest, CopiesTheTokensAndNothingElse) {
  const GatherCase& c = GetParam();
  const int32_t pages = (c.end + kPageTokens - 1) / kPageTokens, tokens = c.end - c.begin;
  const int64_t page_elements = int64_t{c.kv_heads} * kPageTokens * 2 * c.head_dim;
  ManagedArray<uint16_t> kv((pages + 1) * page_elements);
  for (int64_t i = 0; i < (pages + 1) * page_elements; ++i) kv[i] = static_cast<uint16_t>(i * 40503 >> 5);
  ManagedArray<int32_t> table(pages);
  ShufflePages(&table, pages);
  const int64_t elements = int64_t{c.kv_heads} * tokens * c.head_dim;
  constexpr int64_t kGuard = 64;
  constexpr uint16_t kUntouched = 0xabcd;
  ManagedArray<uint16_t> keys(elements + kGuard), values(elements + kGuard);
  std::fill(keys.data(), keys.data() + elements + kGuard, kUntouched);
  std::fill(values.data(), values.data() + elements + kGuard, kUntouched);

  const GatherPagesParams params = ParamsOf(c, kv.data(), table, &keys, &values);
  const absl::Status status = GatherPages(params);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int32_t head = 0; head < c.kv_heads; ++head) {
    for (int32_t t = 0; t < tokens; ++t) {
      const int32_t token = c.begin + t;
      const int64_t from = table[token / kPageTokens] * page_elements +
                           (int64_t{head} * kPageTokens + token % kPageTokens) * 2 * c.head_dim;
      for (int32_t d = 0; d < c.head_dim; ++d) {
        const int64_t to = (int64_t{head} * tokens + t) * c.head_dim + d;
        ASSERT_EQ(keys[to], kv[from + d]) << head << ", " << t << ", " << d;
        ASSERT_EQ(values[to], kv[from + c.head_dim + d]) << head << ", " << t << ", " << d;
      }
    }
  }
  for (int64_t i = elements; i < elements + kGuard; ++i) {
    ASSERT_EQ(keys[i], kUntouched);
    ASSERT_EQ(values[i], kUntouched);
  }
}

TEST_P(GatherPagesTest, WidensPagesInE4m3) {
  const GatherCase& c = GetParam();
  const int32_t pages = (c.end + kPageTokens - 1) / kPageTokens, tokens = c.end - c.begin;
  const int64_t page_rows = int64_t{c.kv_heads} * kPageTokens * 2;
  ManagedArray<uint8_t> kv((pages + 1) * page_rows * c.head_dim);
  ManagedArray<float> scales((pages + 1) * page_rows);
  for (int64_t i = 0; i < (pages + 1) * page_rows * c.head_dim; ++i) {
    kv[i] = static_cast<uint8_t>(i * 40503 >> 5);
    if ((kv[i] & 0x7f) == 0x7f) kv[i] = 0;  // NaN equals nothing
  }
  for (int64_t i = 0; i < (pages + 1) * page_rows; ++i) scales[i] = static_cast<float>(i % 1000 + 1) / 300;
  ManagedArray<int32_t> table(pages);
  ShufflePages(&table, pages);
  const int64_t elements = int64_t{c.kv_heads} * tokens * c.head_dim;
  ManagedArray<uint16_t> keys(elements), values(elements);

  GatherPagesParams params = ParamsOf(c, kv.data(), table, &keys, &values);
  params.pages.kv_scale = scales.data();
  const absl::Status status = GatherPages(params);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int32_t head = 0; head < c.kv_heads; ++head) {
    for (int32_t t = 0; t < tokens; ++t) {
      const int32_t token = c.begin + t;
      const int64_t row = table[token / kPageTokens] * page_rows + (head * kPageTokens + token % kPageTokens) * 2;
      for (int32_t d = 0; d < c.head_dim; ++d) {
        const int64_t to = (int64_t{head} * tokens + t) * c.head_dim + d;
        for (int side = 0; side < 2; ++side) {
          BF16 expected;
          RoundTo(ToFloat(E4m3{kv[(row + side) * c.head_dim + d]}) * scales[row + side], &expected);
          ASSERT_EQ(side == 0 ? keys[to] : values[to], expected.bits) << head << ", " << t << ", " << d;
        }
      }
    }
  }
  params.dtype = DType::kF16;
  EXPECT_EQ(GatherPages(params).message(), "GatherPages: dtype = 2, must be bf16 where pages are e4m3");
}

INSTANTIATE_TEST_SUITE_P(Shapes, GatherPagesTest,
                         ::testing::Values(GatherCase{4, 128, 0, 1024}, GatherCase{3, 64, 0, 1},
                                           GatherCase{1, 64, 63, 65}, GatherCase{2, 128, 100, 101},
                                           GatherCase{8, 64, 70, 500}));

struct MergeCase {
  DType dtype;
  int32_t tokens, heads, head_dim, parts;
  bool in_place;
};

class MergeAttentionTest : public ::testing::TestWithParam<MergeCase> {};

TEST_P(MergeAttentionTest, WeighsThePartsByTheirSums) {
  const MergeCase& c = GetParam();
  const int64_t rows = int64_t{c.tokens} * c.heads, elements = rows * c.head_dim;
  std::mt19937_64 random(6);
  std::normal_distribution<float> normal;
  std::vector<std::unique_ptr<ManagedArray<uint16_t>>> outs;
  std::vector<std::unique_ptr<ManagedArray<float>>> lses;
  MergeAttentionParams params;
  params.execution.device = DeviceKind::kCuda;
  params.dtype = c.dtype;
  params.num_tokens = c.tokens;
  params.num_q_heads = c.heads;
  params.head_dim = c.head_dim;
  params.num_parts = c.parts;
  for (int32_t part = 0; part < c.parts; ++part) {
    outs.push_back(std::make_unique<ManagedArray<uint16_t>>(elements));
    lses.push_back(std::make_unique<ManagedArray<float>>(rows));
    for (int64_t i = 0; i < elements; ++i) StoreElement(normal(random), outs[part]->data(), c.dtype, i);
    for (int64_t i = 0; i < rows; ++i) (*lses[part])[i] = 200.0f + 3 * normal(random);
    params.parts[part] = {outs[part]->data(), lses[part]->data()};
  }
  (*lses[0])[0] = -std::numeric_limits<float>::infinity();  // a part that saw nothing
  std::vector<double> expected(elements), expected_lse(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t token = row / c.heads, place = row % c.heads * c.tokens + token;
    double sum = 0;
    for (int32_t part = 0; part < c.parts; ++part) sum += std::exp(double{(*lses[part])[place]} - 200);
    expected_lse[place] = 200 + std::log(sum);
    for (int32_t part = 0; part < c.parts; ++part) {
      const double weight = std::exp(double{(*lses[part])[place]} - 200) / sum;
      for (int32_t d = 0; d < c.head_dim; ++d) {
        expected[row * c.head_dim + d] +=
            weight * double{LoadElement(outs[part]->data(), c.dtype, row * c.head_dim + d)};
      }
    }
  }
  ManagedArray<uint16_t> out(elements);
  ManagedArray<float> lse(rows);
  params.out = c.in_place ? outs[0]->data() : out.data();
  params.lse = c.in_place ? lses[0]->data() : lse.data();
  const absl::Status status = MergeAttention(params);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const double place = c.dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  for (int64_t i = 0; i < elements; ++i) {
    ASSERT_NEAR(LoadElement(params.out, c.dtype, i), expected[i], place * std::abs(expected[i]) + 1e-5) << i;
  }
  for (int64_t i = 0; i < rows; ++i) ASSERT_NEAR(params.lse[i], expected_lse[i], 1e-4) << i;
}

INSTANTIATE_TEST_SUITE_P(Shapes, MergeAttentionTest,
                         ::testing::Values(MergeCase{DType::kBF16, 300, 28, 128, 2, false},
                                           MergeCase{DType::kBF16, 33, 9, 64, kMaxAttentionParts, true},
                                           MergeCase{DType::kF16, 5, 3, 64, 3, false},
                                           MergeCase{DType::kF16, 1, 7, 128, 4, true}));

TEST(PrefillPartsTest, RefusesWhatItCannotDo) {
  alignas(16) char memory[16];
  GatherPagesParams gather;
  gather.execution.device = DeviceKind::kCuda;
  gather.num_kv_heads = 1;
  gather.head_dim = 64;
  gather.pages.kv = gather.keys = gather.values = memory;
  gather.page_table = reinterpret_cast<const int32_t*>(memory);
  gather.begin = gather.end = 5;
  EXPECT_EQ(GatherPages(gather).message(), "GatherPages: end = 5, must be in [6, 2147483647]");
  MergeAttentionParams merge;
  merge.execution.device = DeviceKind::kCuda;
  merge.num_tokens = merge.num_q_heads = 1;
  merge.head_dim = 64;
  merge.num_parts = kMaxAttentionParts + 1;
  merge.out = memory;
  EXPECT_EQ(MergeAttention(merge).message(), "MergeAttention: num_parts = 7, must be in [1, 6]");
}

}  // namespace
}  // namespace spotlight::kernels::testing
