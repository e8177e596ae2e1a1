// Sampling and the guardrail through a whole engine on a tiny model, whose untrained hash finds what matters only by
// chance.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/load.h"
#include "kernels/budget.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

using testing::HarnessOptions;
using testing::ModelHarness;

#ifdef TEST_ON_CUDA
constexpr char kTestDevice[] = "cuda:0";
// Steps between the one that a sample is of and the first that is planned with it known.
constexpr int32_t kStepsUnderWay = 2;
#else
constexpr char kTestDevice[] = "cpu";
constexpr int32_t kStepsUnderWay = 0;
#endif
constexpr char kFolder[] = "tests/testdata/tiny-llama";
constexpr int32_t kPromptTokens = 700, kOutputTokens = 24;

std::vector<int32_t> Prompt() {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < kPromptTokens; ++i) ids.push_back(5 + i * 37 % 400);
  return ids;
}

struct Answer {
  std::vector<int32_t> token_ids;
  RetrievalStats retrieval;
};

class QualityGuardrailTest : public ::testing::Test {
 protected:
  void SetUp() override {
    hash_path_ = ::testing::TempDir() + "/hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  Answer Generate(const QualityOptions& quality, RetrievalMode mode = RetrievalMode::kSparse) {
    LoadOptions options;
    options.model_folder = kFolder;
    options.dtype = DTypeChoice::kFp32;
    options.device = kTestDevice;
    options.num_threads = 1;
    options.hash = hash_path_;
    options.allow_untrained_hash = true;
    options.max_tokens_in_cache = 2048;
    options.max_warm_up_seconds = 0;
    options.quality = quality;
    auto loaded = LoadEngine(options, &observer_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (!loaded.ok()) return {};
    GenerateRequest request;
    request.request_id = "a";
    request.prompt = TokenPrompt{Prompt()};
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = kOutputTokens;
    request.stopping.ignore_eos = true;
    request.retrieval.mode = mode;
    const auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = loaded->engine->Submit(request, sink);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) return {};
    const Finish finish = sink->WaitForFinish();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    return {sink->token_ids(), finish.retrieval};
  }

  // Greedy decoding of the same prompt, its first `num_sparse` decode steps sparse, without an engine.
  std::vector<int32_t> Decode(int32_t num_sparse) {
    HarnessOptions options;
    options.device = at::Device(kTestDevice);
    options.hash_path = hash_path_;
    auto harness = ModelHarness::Create(kFolder, options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    std::vector<int32_t> token_ids;
    if (!harness.ok()) return token_ids;
    auto logits = (*harness)->Prefill(Prompt());
    while (logits.ok()) {
      token_ids.push_back(testing::ArgMax(*logits));
      const auto count = static_cast<int32_t>(token_ids.size());
      if (count == kOutputTokens) break;
      const int32_t num_select = kernels::NumSelected({}, kPromptTokens + count);
      logits = (*harness)->Decode(token_ids.back(), count <= num_sparse ? num_select : 0);
    }
    EXPECT_TRUE(logits.ok()) << logits.status();
    return token_ids;
  }

  std::string hash_path_;
  RecordingObserver observer_;
};

QualityOptions EveryStep() {
  QualityOptions quality;
  quality.sample_every = 1;
  return quality;
}

TEST_F(QualityGuardrailTest, SamplingEveryStepChangesNoToken) {
  const std::vector<int32_t> unsampled = Generate(QualityOptions{/*sample_every=*/0}).token_ids;
  const Answer sampled = Generate(EveryStep());
  EXPECT_EQ(sampled.token_ids, unsampled);
  EXPECT_EQ(sampled.token_ids, Decode(kOutputTokens));
  const QualityStats& quality = sampled.retrieval.quality;
  EXPECT_EQ(quality.num_samples, kOutputTokens - 1 - (kStepsUnderWay > 0 ? 1 : 0));
  EXPECT_GT(quality.attention_mass, 132.0 / 730 / 2);  // it attends to 132 tokens
  EXPECT_LT(quality.attention_mass, 0.999);
  EXPECT_LE(quality.min_attention_mass, quality.attention_mass);
  EXPECT_GT(quality.recall, 0.0);
  EXPECT_LT(quality.recall, 1.0);
  EXPECT_GT(quality.output_error, 0.0);
  EXPECT_EQ(sampled.retrieval.fallback.count, 0);
}

TEST_F(QualityGuardrailTest, AFloorThatHoldsChangesNoToken) {
  QualityOptions quality = EveryStep();
  quality.floor = 1e-6;
  const Answer answer = Generate(quality);
  EXPECT_EQ(answer.retrieval.fallback.count, 0);
  EXPECT_EQ(answer.retrieval.dense_steps, 0);
  EXPECT_EQ(answer.token_ids, Decode(kOutputTokens));
}

TEST_F(QualityGuardrailTest, FromTheFallbackOnTheModelDecodesDense) {
  QualityOptions quality = EveryStep();
  quality.floor = 1;
  quality.low_samples = 2;
  const Answer answer = Generate(quality);
  const int32_t num_sparse = 2 + kStepsUnderWay;
  EXPECT_EQ(answer.retrieval.sparse_steps, num_sparse);
  EXPECT_EQ(answer.retrieval.dense_steps, kOutputTokens - 1 - num_sparse);
  EXPECT_EQ(answer.retrieval.dense_reason, DenseReason::kGuardrail);
  EXPECT_EQ(answer.retrieval.fallback.count, 1);
  EXPECT_EQ(answer.retrieval.quality.num_samples, num_sparse);
  // Sparse steps, and dense ones on what those cached.
  EXPECT_EQ(answer.token_ids, Decode(num_sparse));
  // The prompt's token is the dense run's.
  const Answer dense = Generate(quality, RetrievalMode::kDense);
  EXPECT_EQ(dense.token_ids, Decode(0));
  EXPECT_EQ(dense.retrieval.dense_reason, DenseReason::kRequestOverride);
  EXPECT_EQ(answer.token_ids[0], dense.token_ids[0]);
  // The three differ, or this would show nothing.
  EXPECT_NE(Decode(num_sparse), Decode(0));
  EXPECT_NE(Decode(num_sparse), Decode(kOutputTokens));
}

TEST_F(QualityGuardrailTest, LowSamplesSayWhichLayerTheyAreOf) {
  QualityOptions quality = EveryStep();
  quality.floor = 1;
  quality.low_samples = 4;
  Generate(quality);
  std::vector<int32_t> layers;
  for (const StepStats& step : observer_.steps()) {
    if (!step.quality.has_value()) continue;
    layers.push_back(step.quality->layer);
    EXPECT_EQ(step.quality->outcome, QualityOutcome::kLow);
    EXPECT_EQ(step.quality->fallback.has_value(), layers.size() == 4);
  }
  ASSERT_EQ(layers.size(), 4u + kStepsUnderWay);
  for (size_t i = 0; i < layers.size(); ++i) EXPECT_EQ(layers[i], i % 2 == 0 ? 2 : 3) << i;
}

}  // namespace
}  // namespace spotlight::engine
