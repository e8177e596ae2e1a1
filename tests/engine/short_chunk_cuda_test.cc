// Steps that decode and compute a short chunk of a prompt, replayed from a CUDA graph, beside the same enqueued kernel
// by kernel; and prompts cut into short chunks beside long ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/model_harness.h"
#include "tests/testing/relative_error.h"
#include "tests/testing/runner_harness.h"

namespace spotlight::engine {
namespace {

constexpr char kFolder[] = "tests/testdata/tiny-llama";
constexpr int32_t kMaxContext = 1024, kMaxRows = 12;
constexpr int32_t kHashedLayer = 2;

class ShortChunkCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    hash_path_ = ::testing::TempDir() + "/short_chunk_hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  struct Outcome {
    std::vector<SampledToken> tokens;
    std::vector<RetrievalQuality> measured;
    int32_t graphs = 0;
  };
  // `rows` sequences of 130 tokens and more decode, `sparse` of them sparsely, while a prompt of `chunks` comes; then
  // all of them decode, the prompt's sequence, too. `measures`: the last row of each step with a chunk.
  Outcome RunChunks(bool cuda_graphs, at::ScalarType dtype, int32_t rows, int32_t sparse,
                    const std::vector<int32_t>& chunks, bool measures = false) {
    Outcome outcome;
    testing::RunnerOptions options;
    options.folder = kFolder;
    options.hash_path = hash_path_;
    options.dtype = dtype;
    options.cuda_graphs = cuda_graphs;
    options.measure_quality = true;
    options.max_rows = kMaxRows;
    options.max_context = kMaxContext;
    const std::unique_ptr<ModelRunner> runner = testing::MakeRunner(options);
    if (runner == nullptr) return outcome;
    testing::Sequences sequences(kMaxRows, kMaxContext);
    std::vector<int32_t> decoding;
    for (int32_t i = 0; i < rows; ++i) {
      sequences.Prefill(runner.get(), i, 130 + 31 * i, 512);
      decoding.push_back(i);
    }
    const auto step = [&](const Batch& batch) {
      StepResult result = testing::RunStep(runner.get(), batch);
      EXPECT_EQ(result.tokens.size(), batch.samples.size());
      outcome.graphs += result.cuda_graph ? 1 : 0;
      for (SampledToken& token : result.tokens) outcome.tokens.push_back(std::move(token));
      if (result.quality.has_value()) outcome.measured.push_back(result.quality->measured);
    };
    for (size_t i = 0; i < chunks.size(); ++i) {
      Batch batch = sequences.Step(decoding, sparse, rows, chunks[i], i + 1 == chunks.size());
      if (measures) {
        batch.quality = QualityTarget();
        batch.quality->row = rows - 1;
        batch.quality->layer = kHashedLayer;
      }
      step(batch);
    }
    decoding.push_back(rows);
    for (int32_t i = 0; i < 3; ++i) step(sequences.Step(decoding, 0, 0, 0, false));
    return outcome;
  }

  std::string hash_path_;
};

TEST_F(ShortChunkCudaTest, AGraphGivesTheBitsOfTheSameStepEnqueuedKernelByKernel) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const int32_t sparse : {0, 8}) {
      // Rows and chunks that fill their buckets: padding changes how matrices are multiplied.
      const std::vector<int32_t> chunks = {16, 128, 64, 32, 48, 96};
      const Outcome eager = RunChunks(false, dtype, 8, sparse, chunks),
                    graph = RunChunks(true, dtype, 8, sparse, chunks);
      EXPECT_EQ(eager.graphs, 0);
      EXPECT_EQ(graph.graphs, 9);
      const size_t beside = 8 * chunks.size() + 1;
      ASSERT_EQ(eager.tokens.size(), beside + 3 * 9);
      ASSERT_EQ(graph.tokens.size(), eager.tokens.size());
      for (size_t i = 0; i < beside; ++i) {
        EXPECT_EQ(graph.tokens[i].token_id, eager.tokens[i].token_id) << i;
        EXPECT_EQ(graph.tokens[i].logprob.logprob, eager.tokens[i].logprob.logprob) << i;
        EXPECT_EQ(graph.tokens[i].logprob.top, eager.tokens[i].logprob.top) << i;
      }
    }
  }
}

TEST_F(ShortChunkCudaTest, PaddingChangesNothingButRounding) {
  struct Case {
    int32_t rows, sparse, graphs;
    std::vector<int32_t> chunks;
  };
  const std::vector<int32_t> chunks = {1, 50, 17, 100, 3};
  // Of mixed rows the third step of a kind is a graph, and so are the last three, in which all rows are dense.
  for (const Case& c : {Case{0, 0, 8, chunks}, Case{1, 0, 8, chunks}, Case{11, 11, 8, chunks}, Case{5, 2, 3, chunks},
                        Case{5, 2, 5, {50, 3, 61, 60, 17, 64}}}) {
    const Outcome eager = RunChunks(false, at::kFloat, c.rows, c.sparse, c.chunks);
    const Outcome graph = RunChunks(true, at::kFloat, c.rows, c.sparse, c.chunks);
    EXPECT_EQ(graph.graphs, c.graphs) << c.rows << " rows";
    ASSERT_EQ(graph.tokens.size(), eager.tokens.size());
    for (size_t i = 0; i < eager.tokens.size(); ++i) {
      EXPECT_EQ(graph.tokens[i].token_id, eager.tokens[i].token_id) << c.rows << " rows, " << i;
      EXPECT_NEAR(graph.tokens[i].logprob.logprob, eager.tokens[i].logprob.logprob, 1e-3) << c.rows << " rows, " << i;
    }
  }
}

// In bf16, where padding changes how matrices are multiplied.
TEST_F(ShortChunkCudaTest, MeasuringBesideAChunkChangesNoBit) {
  const std::vector<int32_t> chunks = {1, 50, 17, 100, 3};
  for (const int32_t rows : {1, 5, 9}) {
    const Outcome plain = RunChunks(true, at::kBFloat16, rows, rows, chunks);
    const Outcome measured = RunChunks(true, at::kBFloat16, rows, rows, chunks, /*measures=*/true);
    EXPECT_EQ(plain.graphs, 8);
    EXPECT_EQ(measured.graphs, 3) << "those without a chunk";
    ASSERT_EQ(measured.measured.size(), chunks.size());
    for (const RetrievalQuality& quality : measured.measured) {
      EXPECT_GT(quality.attention_mass, 0.05f);
      EXPECT_LE(quality.attention_mass, 1.001f);
    }
    ASSERT_EQ(measured.tokens.size(), plain.tokens.size());
    for (size_t i = 0; i < plain.tokens.size(); ++i) {
      EXPECT_EQ(measured.tokens[i].token_id, plain.tokens[i].token_id) << rows << " rows, " << i;
      EXPECT_EQ(measured.tokens[i].logprob.logprob, plain.tokens[i].logprob.logprob) << rows << " rows, " << i;
    }
  }
}

TEST_F(ShortChunkCudaTest, ShortChunksGiveTheLogitsOfLongOnes) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 900; ++i) prompt.push_back(5 + i * 37 % 400);
  const auto logits = [&](at::ScalarType dtype, int32_t chunk) {
    testing::HarnessOptions options;
    options.dtype = dtype;
    options.device = at::Device(at::kCUDA, 0);
    options.chunk_tokens = chunk;
    auto harness = testing::ModelHarness::Create(kFolder, options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    auto result = (*harness)->Prefill(prompt);
    EXPECT_TRUE(result.ok()) << result.status();
    return *result;
  };
  const std::vector<float> exact = logits(at::kFloat, 512);
  EXPECT_LT(testing::RelativeError(logits(at::kFloat, 16), exact), 1e-4);
  // Of long chunks: how far rounding differs from one order of sums to another.
  double usual = 0;
  for (const int32_t chunk : {300, 512, 900}) {
    usual = std::max(usual, testing::RelativeError(logits(at::kBFloat16, chunk), exact));
  }
  // One order may be as far off as another, twice: 0.15 where others are 0.09 from fp32's logits (H200, 128 tokens).
  for (const int32_t chunk : {7, 16, 100, 128}) {
    EXPECT_LT(testing::RelativeError(logits(at::kBFloat16, chunk), exact), 2 * usual) << chunk;
  }
}

}  // namespace
}  // namespace spotlight::engine
