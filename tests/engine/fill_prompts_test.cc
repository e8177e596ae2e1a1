// An engine whose prompts fill the cache at random in place of being computed: what a prompt's step yields, and what
// the steps behind it do.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/load.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
constexpr char kTestDevice[] = "cuda:0";
#else
constexpr char kTestDevice[] = "cpu";
#endif
constexpr char kFolder[] = "tests/testdata/tiny-llama";
constexpr int32_t kPromptTokens = 300, kOutputTokens = 12, kStepTokens = 128;

class FillPromptsTest : public ::testing::Test {
 protected:
  void Start(bool fill_prompts) {
    const std::string hash_path = ::testing::TempDir() + "/hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path);
    ASSERT_TRUE(written.ok()) << written;
    LoadOptions options;
    options.model_folder = kFolder;
    options.dtype = DTypeChoice::kFp32;
    options.device = kTestDevice;
    options.num_threads = 1;
    options.hash = hash_path;
    options.allow_untrained_hash = true;
    options.fill_prompts = fill_prompts;
    options.max_tokens_in_cache = 8192;
    options.max_warm_up_seconds = 0;
    options.scheduler.max_step_tokens = kStepTokens;
    options.scheduler.prefix_cache = false;
    engine_.reset();
    observer_ = std::make_unique<RecordingObserver>();
    auto loaded = LoadEngine(options, observer_.get());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    engine_ = std::move(loaded->engine);
  }

  std::shared_ptr<RecordingSink> Submit(RetrievalMode mode) {
    GenerateRequest request;
    request.request_id = std::to_string(num_requests_++);
    TokenPrompt prompt;
    for (int32_t i = 0; i < kPromptTokens; ++i) prompt.token_ids.push_back(5 + i * 37 % 400);
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = kOutputTokens;
    request.stopping.ignore_eos = true;
    request.retrieval.mode = mode;
    request.logprobs = 0;
    const auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }

  static void ExpectAnswer(const std::shared_ptr<RecordingSink>& sink) {
    const Finish finish = sink->WaitForFinish();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    EXPECT_EQ(finish.usage.prompt_tokens, kPromptTokens);
    EXPECT_EQ(sink->token_ids().size(), kOutputTokens);
  }

  // Of the tokens that the model chose.
  static std::vector<float> Logprobs(const RecordingSink& sink) {
    std::vector<float> values;
    for (const TokenLogprob& logprob : sink.logprobs()) values.push_back(logprob.logprob);
    values.erase(values.begin());
    return values;
  }

  std::unique_ptr<RecordingObserver> observer_;
  std::unique_ptr<Engine> engine_;
  int num_requests_ = 0;
};

TEST_F(FillPromptsTest, StepsMayTakeAnyTimeOnACpuAlone) {
  Start(true);
  EXPECT_EQ(engine_->options().max_step_seconds, engine_->model().device == "cpu" ? 0 : 120);
}

TEST_F(FillPromptsTest, APromptYieldsTokenZeroAndTheModelTheRest) {
  Start(/*fill_prompts=*/true);
  for (const RetrievalMode mode : {RetrievalMode::kSparse, RetrievalMode::kDense}) {
    const auto sink = Submit(mode);
    ExpectAnswer(sink);
    EXPECT_EQ(sink->token_ids()[0], 0);
    for (const float logprob : Logprobs(*sink)) {
      EXPECT_TRUE(std::isfinite(logprob));
      EXPECT_LT(logprob, 0) << "computed: of 512 tokens";
    }
  }
  engine_.reset();  // the last step is reported after its tokens
  int32_t prefilled = 0, retrieved = 0, dense = 0;
  for (const StepStats& step : observer_->steps()) {
    prefilled += step.num_prefill_tokens;
    retrieved += static_cast<int32_t>(step.sparse_rows.size());
    dense += static_cast<int32_t>(step.dense_rows.size());
    for (const RowRetrieval& row : step.sparse_rows) {
      EXPECT_GT(row.selected_tokens, 0);
      EXPECT_GT(row.context_tokens, kPromptTokens);
    }
  }
  EXPECT_EQ(prefilled, 2 * kPromptTokens) << "appended in chunks as a prompt is";
  EXPECT_EQ(retrieved, kOutputTokens - 1);
  EXPECT_EQ(dense, kOutputTokens - 1);
}

TEST_F(FillPromptsTest, EveryPromptIsDrawnAnew) {
  Start(/*fill_prompts=*/true);
  const auto first = Submit(RetrievalMode::kDense);
  ExpectAnswer(first);
  const auto second = Submit(RetrievalMode::kDense);
  ExpectAnswer(second);
  EXPECT_NE(Logprobs(*first), Logprobs(*second)) << "one prompt, two caches";

  Start(/*fill_prompts=*/false);
  const auto computed = Submit(RetrievalMode::kDense);
  ExpectAnswer(computed);
  const auto again = Submit(RetrievalMode::kDense);
  ExpectAnswer(again);
  EXPECT_EQ(Logprobs(*computed), Logprobs(*again));
}

TEST_F(FillPromptsTest, RowsThatDecodeBesideAPromptEndAsUsual) {
  Start(/*fill_prompts=*/true);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 5; ++i) sinks.push_back(Submit(i % 2 == 0 ? RetrievalMode::kSparse : RetrievalMode::kDense));
  for (const auto& sink : sinks) {
    ExpectAnswer(sink);
    EXPECT_EQ(sink->token_ids()[0], 0);
  }
  const EngineLoad load = engine_->Load();
  EXPECT_TRUE(load.healthy) << load.fault;
}

}  // namespace
}  // namespace spotlight::engine
