// Decode steps replayed from CUDA graphs beside the same steps enqueued kernel by kernel.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/load.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

constexpr char kFolder[] = "tests/testdata/tiny-llama";
constexpr int32_t kOutputTokens = 40;

struct Ask {
  int32_t prompt_tokens = 0;  // also says which
  RetrievalMode mode = RetrievalMode::kSparse;
};

struct Answer {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
};

struct Outcome {
  std::vector<Answer> answers;
  int32_t graph_steps = 0, decode_steps = 0;
};

class TorchModelRunnerCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    hash_path_ = ::testing::TempDir() + "/hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  // All at once. `logprobs`: the logits come to the host; else the device picks the token.
  Outcome Generate(const std::vector<Ask>& asks, bool cuda_graphs, bool logprobs, DTypeChoice dtype) {
    LoadOptions options;
    options.model_folder = kFolder;
    options.dtype = dtype;
    options.device = "cuda:0";
    options.hash = hash_path_;
    options.allow_untrained_hash = true;
    options.max_tokens_in_cache = 16384;
    options.cuda_graphs = cuda_graphs;
    options.scheduler.max_running = 12;
    options.quality.sample_every = 0;
    RecordingObserver observer;
    Outcome outcome;
    auto loaded = LoadEngine(options, &observer);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (!loaded.ok()) return outcome;
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (size_t i = 0; i < asks.size(); ++i) {
      std::vector<int32_t> prompt;
      for (int32_t t = 0; t < asks[i].prompt_tokens; ++t) prompt.push_back(5 + (t * 37 + asks[i].prompt_tokens) % 400);
      GenerateRequest request;
      request.request_id = std::to_string(i);
      request.prompt = TokenPrompt{prompt};
      request.sampling.temperature = 0.0f;
      request.stopping.max_tokens = kOutputTokens;
      request.stopping.ignore_eos = true;
      request.retrieval.mode = asks[i].mode;
      if (logprobs) request.logprobs = 0;
      sinks.push_back(std::make_shared<RecordingSink>());
      const absl::Status status = loaded->engine->Submit(request, sinks.back());
      EXPECT_TRUE(status.ok()) << status;
      if (!status.ok()) return outcome;
    }
    for (const auto& sink : sinks) {
      const Finish finish = sink->WaitForFinish();
      EXPECT_TRUE(finish.status.ok()) << finish.status;
      Answer answer;
      answer.token_ids = sink->token_ids();
      for (const Delta& delta : sink->deltas()) {
        for (const TokenLogprob& logprob : delta.logprobs) answer.logprobs.push_back(logprob.logprob);
      }
      outcome.answers.push_back(answer);
    }
    loaded->engine.reset();
    for (const StepStats& step : observer.steps()) {
      outcome.graph_steps += step.cuda_graph ? 1 : 0;
      outcome.decode_steps += step.num_decode_rows > 0 && step.num_prefill_tokens == 0 ? 1 : 0;
    }
    return outcome;
  }

  std::string hash_path_;
};

TEST_F(TorchModelRunnerCudaTest, GraphsGiveTheSameBits) {
  for (const DTypeChoice dtype : {DTypeChoice::kFp32, DTypeChoice::kBf16}) {
    for (const RetrievalMode mode : {RetrievalMode::kDense, RetrievalMode::kSparse}) {
      const std::vector<Ask> asks = {{900, mode}};
      const Outcome eager = Generate(asks, false, true, dtype);
      const Outcome graph = Generate(asks, true, true, dtype);
      ASSERT_EQ(eager.answers.size(), 1u);
      ASSERT_EQ(graph.answers.size(), 1u);
      EXPECT_EQ(eager.graph_steps, 0);
      // One step in some is measured, and that one is not replayed.
      EXPECT_GT(graph.graph_steps, graph.decode_steps / 2);
      EXPECT_EQ(graph.answers[0].token_ids, eager.answers[0].token_ids);
      ASSERT_EQ(graph.answers[0].logprobs.size(), static_cast<size_t>(kOutputTokens));
      EXPECT_EQ(graph.answers[0].logprobs, eager.answers[0].logprobs);
    }
  }
}

TEST_F(TorchModelRunnerCudaTest, TheDevicePicksTheTokenThatTheHostWould) {
  const std::vector<Ask> asks = {{900, RetrievalMode::kSparse}};
  const Outcome host = Generate(asks, true, true, DTypeChoice::kBf16);
  const Outcome device = Generate(asks, true, false, DTypeChoice::kBf16);
  ASSERT_EQ(host.answers.size(), 1u);
  ASSERT_EQ(device.answers.size(), 1u);
  EXPECT_EQ(device.answers[0].token_ids, host.answers[0].token_ids);
}

TEST_F(TorchModelRunnerCudaTest, PaddedAndMixedRowsGetTheTokensOfRowsAlone) {
  const std::vector<Ask> asks = {{300, RetrievalMode::kDense},  {900, RetrievalMode::kSparse},
                                 {65, RetrievalMode::kDense},   {1500, RetrievalMode::kSparse},
                                 {640, RetrievalMode::kSparse}, {33, RetrievalMode::kDense}};
  const Outcome together = Generate(asks, true, false, DTypeChoice::kFp32);
  ASSERT_EQ(together.answers.size(), asks.size());
  EXPECT_GT(together.graph_steps, together.decode_steps / 2);
  for (size_t i = 0; i < asks.size(); ++i) {
    const Outcome alone = Generate({asks[i]}, false, false, DTypeChoice::kFp32);
    ASSERT_EQ(alone.answers.size(), 1u);
    EXPECT_EQ(together.answers[i].token_ids, alone.answers[0].token_ids) << i;
  }
}

}  // namespace
}  // namespace spotlight::engine
