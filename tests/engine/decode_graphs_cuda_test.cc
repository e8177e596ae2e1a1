// Steps that just decode, replayed from CUDA graphs, beside the same enqueued kernel by kernel: bit for bit where the
// rows fill their graph, padding changes how matrices are multiplied.
#include "engine/decode_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/model_harness.h"
#include "tests/testing/runner_harness.h"

namespace spotlight::engine {
namespace {

constexpr char kFolder[] = "tests/testdata/tiny-llama";

class DecodeGraphsCudaTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    options_.folder = kFolder;
    options_.hash_path = ::testing::TempDir() + "/decode_graphs_hash.safetensors";
    options_.dtype = GetParam();
    const absl::Status written = testing::WriteUntrainedHash(kFolder, options_.hash_path);
    ASSERT_TRUE(written.ok()) << written;
  }

  void MakeRunners() {
    options_.cuda_graphs = false;
    eager_ = testing::MakeRunner(options_);
    options_.cuda_graphs = true;
    graph_ = testing::MakeRunner(options_);
    ASSERT_NE(eager_, nullptr);
    ASSERT_NE(graph_, nullptr);
  }

  // replayed: by the runner with graphs, from one.
  void ExpectSameBits(const Batch& batch, const std::string& what, bool replayed = true) {
    const StepResult eager = testing::RunStep(eager_.get(), batch), graph = testing::RunStep(graph_.get(), batch);
    EXPECT_FALSE(eager.cuda_graph);
    EXPECT_EQ(graph.cuda_graph, replayed) << what;
    ASSERT_EQ(eager.tokens.size(), batch.samples.size());
    ASSERT_EQ(graph.tokens.size(), batch.samples.size());
    for (size_t i = 0; i < eager.tokens.size(); ++i) {
      EXPECT_EQ(graph.tokens[i].token_id, eager.tokens[i].token_id) << what << ", row " << i;
      EXPECT_EQ(graph.tokens[i].logprob.logprob, eager.tokens[i].logprob.logprob) << what << ", row " << i;
      EXPECT_EQ(graph.tokens[i].logprob.top, eager.tokens[i].logprob.top) << what << ", row " << i;
    }
  }

  testing::RunnerOptions options_;
  std::unique_ptr<ModelRunner> eager_, graph_;
};

TEST_P(DecodeGraphsCudaTest, FullGraphsOfAnyNumberOfRowsGiveTheSameBits) {
  options_.max_rows = 16;
  options_.max_tokens = 1024;
  ASSERT_NO_FATAL_FAILURE(MakeRunners());
  testing::Sequences sequences(options_.max_rows, options_.max_context);
  for (int32_t i = 0; i < options_.max_rows; ++i) {
    // Each step of the prompt is for both runners.
    const Batch prompt = sequences.Step({}, 0, i, 130 + 31 * i, true);
    testing::RunStep(eager_.get(), prompt);
    testing::RunStep(graph_.get(), prompt);
  }
  for (const int32_t rows : {1, 2, 4, 8, 16}) {
    std::vector<int32_t> decoding(rows);
    std::iota(decoding.begin(), decoding.end(), 0);
    for (const int32_t sparse : {0, rows / 2, rows}) {
      for (int32_t step = 0; step < 4; ++step) {
        const bool mixed = sparse > 0 && sparse < rows;  // captured at the third step of their kind
        ExpectSameBits(sequences.Step(decoding, sparse, 0, 0, false),
                       std::to_string(rows) + " rows, " + std::to_string(sparse) + " sparse", !mixed || step >= 2);
      }
    }
  }
}

// Rows that grow past the length up to which there is another graph.
TEST_P(DecodeGraphsCudaTest, GraphsForShortAndForLongRowsGiveTheSameBits) {
  constexpr int32_t kLimit = DecodeGraphs::kShortContext;
  options_.max_rows = 2;
  options_.max_tokens = 4096;
  options_.max_context = kLimit + 8192;
  ASSERT_NO_FATAL_FAILURE(MakeRunners());
  testing::Sequences sequences(options_.max_rows, options_.max_context);
  for (const auto& [sequence, length] : {std::make_pair(0, kLimit - 4), std::make_pair(1, kLimit / 2)}) {
    for (int32_t left = length; left > 0;) {
      const int32_t chunk = std::min(left, options_.max_tokens);
      left -= chunk;
      const Batch prompt = sequences.Step({}, 0, sequence, chunk, left == 0);
      testing::RunStep(eager_.get(), prompt);
      testing::RunStep(graph_.get(), prompt);
    }
  }
  ExpectSameBits(sequences.Step({1}, 1, 0, 0, false), "a row of half the limit");
  for (int32_t length = kLimit - 3; length <= kLimit + 4; ++length) {
    ExpectSameBits(sequences.Step({0, 1}, 2, 0, 0, false), "a row of " + std::to_string(length) + " tokens");
  }
  ExpectSameBits(sequences.Step({0}, 1, 0, 0, false), "a row over the limit");
  ExpectSameBits(sequences.Step({1}, 1, 0, 0, false), "a row of half the limit, after longer ones");
}

INSTANTIATE_TEST_SUITE_P(All, DecodeGraphsCudaTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return info.param == at::kFloat ? "Fp32" : "Bf16"; });

}  // namespace
}  // namespace spotlight::engine
