// ChunkAttention against plain loops in double; what no token owns holds NaN, and outputs begin as NaN.
#include "kernels/chunk_attention.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/numeric.h"
#include "tests/kernels/captured_graph.h"
#include "tests/testing/managed_array.h"

namespace spotlight::kernels::testing {
namespace {

using spotlight::testing::ManagedArray;

constexpr uint16_t kNan = 0x7fff;  // in either type

struct Shape {
  DType dtype;
  int32_t q_heads, kv_heads, head_dim, tokens, most_pages;
  float spread = 1;  // of the queries
};

// A sequence's pages in any order, and the queries at its end.
class Chunk {
 public:
  explicit Chunk(const Shape& shape)
      : shape_(shape),
        kv_((shape.most_pages + 1) * PageElements()),
        table_(shape.most_pages),
        lengths_(shape.tokens),
        q_(QueryElements()),
        out_(QueryElements()),
        workspace_(static_cast<int64_t>(WorkspaceBytes())) {
    std::iota(table_.data(), table_.data() + shape.most_pages, 1);
    std::shuffle(table_.data(), table_.data() + shape.most_pages, std::mt19937(4));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < QueryElements(); ++i) {
      StoreElement(shape.spread * normal(random_), q_.data(), shape.dtype, i);
    }
  }

  // Keys and values of tokens [0, longest), NaN elsewhere, and the queries' lengths.
  void SetLengths(const std::vector<int32_t>& lengths) {
    const int32_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::copy(lengths.begin(), lengths.end(), lengths_.data());
    kv_.Fill(kNan);
    std::mt19937 random(9);
    // Cheaper than normal ones.
    const auto element = [&] { return (static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f) * 3; };
    for (int32_t token = 0; token < longest; ++token) {
      for (int32_t head = 0; head < shape_.kv_heads; ++head) {
        const int64_t at = Element(token, head);
        for (int32_t d = 0; d < 2 * shape_.head_dim; ++d) StoreElement(element(), kv_.data(), shape_.dtype, at + d);
      }
    }
  }

  ChunkAttentionParams Params() {
    ChunkAttentionParams params;
    params.execution.device = DeviceKind::kCuda;
    params.dtype = shape_.dtype;
    params.num_tokens = shape_.tokens;
    params.num_q_heads = shape_.q_heads;
    params.num_kv_heads = shape_.kv_heads;
    params.head_dim = shape_.head_dim;
    params.softmax_scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    params.q = q_.data();
    params.pages.kv = kv_.data();
    params.pages.num_pages = shape_.most_pages + 1;
    params.page_table = table_.data();
    params.max_pages = shape_.most_pages;
    params.context_len = lengths_.data();
    params.out = out_.data();
    params.workspace = workspace_.data();
    params.workspace_bytes = WorkspaceBytes();
    return params;
  }

  void Spoil() {
    out_.Fill(kNan);
    workspace_.Fill(0xff);
  }
  std::vector<uint16_t> Output() const { return out_.Copy(); }

  // Every head of every query within `bound` of the expected one, relative to its norm.
  void ExpectRight(double bound) {
    for (int32_t token = 0; token < shape_.tokens; ++token) {
      for (int32_t head = 0; head < shape_.q_heads; ++head) {
        const std::vector<double> expected = Expected(token, head);
        double error = 0, norm = 0;
        for (int32_t d = 0; d < shape_.head_dim; ++d) {
          const int64_t at = (int64_t{token} * shape_.q_heads + head) * shape_.head_dim + d;
          const double difference = double{LoadElement(out_.data(), shape_.dtype, at)} - expected[d];
          error += difference * difference;
          norm += expected[d] * expected[d];
        }
        ASSERT_LE(std::sqrt(error), bound * std::sqrt(norm)) << "token " << token << ", head " << head;
      }
    }
  }

 private:
  int64_t PageElements() const { return int64_t{shape_.kv_heads} * kPageTokens * 2 * shape_.head_dim; }
  int64_t QueryElements() const { return int64_t{shape_.tokens} * shape_.q_heads * shape_.head_dim; }
  size_t WorkspaceBytes() const {
    return ChunkAttentionWorkspaceBytes(shape_.tokens, shape_.q_heads, shape_.kv_heads, shape_.head_dim);
  }
  int64_t Element(int32_t token, int32_t kv_head) const {
    return table_[token / kPageTokens] * PageElements() +
           (int64_t{kv_head} * kPageTokens + token % kPageTokens) * 2 * shape_.head_dim;
  }

  std::vector<double> Expected(int32_t token, int32_t head) const {
    const int32_t kv_head = head / (shape_.q_heads / shape_.kv_heads), dim = shape_.head_dim;
    std::vector<float> query(dim);
    for (int32_t d = 0; d < dim; ++d) {
      query[d] = LoadElement(q_.data(), shape_.dtype, (int64_t{token} * shape_.q_heads + head) * dim + d);
    }
    std::vector<double> logits(lengths_[token]), sums(dim);
    for (int32_t i = 0; i < lengths_[token]; ++i) {
      double dot = 0;
      for (int32_t d = 0; d < dim; ++d) {
        dot += double{query[d]} * double{LoadElement(kv_.data(), shape_.dtype, Element(i, kv_head) + d)};
      }
      logits[i] = dot / std::sqrt(static_cast<double>(dim));
    }
    const double largest = logits.empty() ? 0 : *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (int32_t i = 0; i < lengths_[token]; ++i) {
      const double weight = std::exp(logits[i] - largest);
      total += weight;
      for (int32_t d = 0; d < dim; ++d) {
        sums[d] += weight * double{LoadElement(kv_.data(), shape_.dtype, Element(i, kv_head) + dim + d)};
      }
    }
    for (double& sum : sums) sum = total == 0 ? 0 : sum / total;
    return sums;
  }

  const Shape shape_;
  std::mt19937_64 random_{7};
  ManagedArray<uint16_t> kv_;
  ManagedArray<int32_t> table_, lengths_;
  ManagedArray<uint16_t> q_, out_;
  ManagedArray<uint8_t> workspace_;
};

// Consecutive queries, the last `padding` of which are none.
std::vector<int32_t> Lengths(int32_t tokens, int32_t past, int32_t padding) {
  std::vector<int32_t> lengths(tokens);
  for (int32_t t = 0; t + padding < tokens; ++t) lengths[t] = past + t + 1;
  return lengths;
}

struct Case {
  Shape shape;
  int32_t past, padding;
};

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  const Shape& s = info.param.shape;
  const std::string name = std::string(s.dtype == DType::kBF16 ? "bf16" : "fp16") + "_" + std::to_string(s.q_heads) +
                           "x" + std::to_string(s.kv_heads) + "x" + std::to_string(s.head_dim) + "_" +
                           std::to_string(s.tokens) + "_after_" + std::to_string(info.param.past) + "_padded_" +
                           std::to_string(info.param.padding);
  return s.spread == 1 ? name : name + "_peaked";
}

class ChunkAttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(ChunkAttentionTest, EveryQueryAttendsToItsOwnTokens) {
  const Case& c = GetParam();
  Chunk chunk(c.shape);
  chunk.SetLengths(Lengths(c.shape.tokens, c.past, c.padding));
  chunk.Spoil();
  const absl::Status status = ChunkAttention(chunk.Params());
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  chunk.ExpectRight(5e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ChunkAttentionTest,
    ::testing::Values(
        Case{{DType::kBF16, 28, 4, 128, 16, 20}, 1100, 0}, Case{{DType::kBF16, 28, 4, 128, 16, 20}, 1023, 5},
        Case{{DType::kBF16, 28, 4, 128, 64, 20}, 1088, 7}, Case{{DType::kBF16, 28, 4, 128, 128, 16}, 777, 0},
        Case{{DType::kBF16, 28, 4, 128, 16, 20, 8}, 1100, 2}, Case{{DType::kBF16, 7, 1, 128, 4, 1600}, 100000, 1},
        Case{{DType::kBF16, 1, 1, 128, 1, 1}, 0, 0}, Case{{DType::kBF16, 9, 3, 64, 16, 2}, 0, 3},
        Case{{DType::kBF16, 9, 3, 64, 33, 40}, 2500, 0}, Case{{DType::kBF16, 32, 32, 128, 20, 8}, 400, 4},
        Case{{DType::kF16, 32, 2, 128, 20, 8}, 400, 4}, Case{{DType::kF16, 9, 3, 64, 32, 10, 8}, 600, 0},
        Case{{DType::kF16, 8, 1, 64, 128, 70}, 4300, 100}, Case{{DType::kF16, 24, 4, 128, 16, 4}, 63, 0}),
    NameOf);

TEST(ChunkAttentionOrderTest, LengthsNeedNotBeConsecutive) {
  Chunk chunk({DType::kBF16, 14, 2, 128, 5, 20});
  chunk.SetLengths({700, 0, 1200, 1, 64});
  chunk.Spoil();
  const absl::Status status = ChunkAttention(chunk.Params());
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  chunk.ExpectRight(5e-3);
}

TEST(ChunkAttentionGraphTest, OneGraphServesAnyLengthsBitForBit) {
  Chunk chunk({DType::kBF16, 28, 4, 128, 16, 30});
  chunk.SetLengths(Lengths(16, 100, 16));
  CapturedGraph graph;
  const absl::Status captured = graph.Capture([&](void* stream) {
    auto params = chunk.Params();
    params.execution.stream = stream;
    return ChunkAttention(params);
  });
  ASSERT_TRUE(captured.ok()) << captured;
  for (const int32_t past : {0, 1800, 130, 63, 911}) {
    chunk.SetLengths(Lengths(16, past, past % 5));
    chunk.Spoil();
    const absl::Status run = graph.Run();
    ASSERT_TRUE(run.ok()) << run;
    chunk.ExpectRight(5e-3);
    const std::vector<uint16_t> replayed = chunk.Output();
    for (int i = 0; i < 3; ++i) {
      chunk.Spoil();
      ASSERT_TRUE(ChunkAttention(chunk.Params()).ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      ASSERT_EQ(chunk.Output(), replayed) << past;
    }
  }
}

TEST(ChunkAttentionGraphTest, PaddingAloneIsZero) {
  Chunk chunk({DType::kBF16, 28, 4, 128, 16, 2});
  chunk.SetLengths(std::vector<int32_t>(16, 0));
  chunk.Spoil();
  ASSERT_TRUE(ChunkAttention(chunk.Params()).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (const uint16_t element : chunk.Output()) ASSERT_EQ(element, 0);
}

TEST(ChunkAttentionValidationTest, RefusesWhatItCannotDo) {
  alignas(256) char memory[256];
  ChunkAttentionParams params;
  params.execution.device = DeviceKind::kCuda;
  params.num_tokens = 1;
  params.num_q_heads = params.num_kv_heads = 1;
  params.head_dim = 64;
  params.softmax_scale = 1;
  params.q = params.pages.kv = params.out = params.workspace = memory;
  params.page_table = params.context_len = reinterpret_cast<const int32_t*>(memory);
  params.pages.num_pages = params.max_pages = 1;
  const auto message = [&] { return std::string(ChunkAttention(params).message()); };
  EXPECT_EQ(message(), "ChunkAttention: workspace_bytes = 0, must be at least " +
                           std::to_string(ChunkAttentionWorkspaceBytes(1, 1, 1, 64)));
  params.pages.kv_scale = reinterpret_cast<float*>(memory);
  EXPECT_EQ(message(), "ChunkAttention: pages.kv_scale = 1, must be null: keys and values are of dtype");
  params.head_dim = 96;
  EXPECT_EQ(message(), "ChunkAttention: head_dim = 96, must be one of 64, 128");
  params.num_tokens = kMaxChunkQueries + 1;
  EXPECT_EQ(message(), "ChunkAttention: num_tokens = 129, must be in [1, 128]");
  params.dtype = DType::kF32;
  EXPECT_EQ(message(), "ChunkAttention: dtype = 0, must be bf16 or fp16");
  params.execution.device = DeviceKind::kCpu;
  EXPECT_EQ(message(), "ChunkAttention: execution.device = 0, must be CUDA");
}

}  // namespace
}  // namespace spotlight::kernels::testing
