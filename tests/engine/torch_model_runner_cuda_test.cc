// A GPU's steps: replayed from CUDA graphs beside the same enqueued kernel by kernel, and sampled there beside the
// host's sampler on a CPU.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
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
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
};

// What is asked of every request: greedy by default.
using Shape = std::function<void(GenerateRequest*)>;

void WithLogprobs(GenerateRequest* request) {
  request->logprobs = 0;
}

// Everything that sampling knows.
void WithEverything(GenerateRequest* request) {
  SamplingParams& sampling = request->sampling;
  sampling.temperature = 0.9f;
  sampling.top_p = 0.95f;
  sampling.top_k = 60;
  sampling.min_p = 0.01f;
  sampling.repetition_penalty = 1.2f;
  sampling.presence_penalty = 0.3f;
  sampling.frequency_penalty = 0.1f;
  sampling.seed = 77;
  sampling.logit_bias = {{17, 2.0f}, {99, -3.0f}};
  request->stopping.min_tokens = 20;
  request->stopping.stop_token_ids = {3, 17, 21, 40};
  request->logprobs = 3;
  request->prompt_logprobs = 2;
}

void ExpectSameBits(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].logprob, b[i].logprob) << i;
    EXPECT_EQ(a[i].top, b[i].top) << i;
  }
}

void ExpectNear(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].token_id, b[i].token_id) << i;
    EXPECT_NEAR(a[i].logprob, b[i].logprob, 1e-3) << i;
    ASSERT_EQ(a[i].top.size(), b[i].top.size()) << i;
    for (size_t t = 0; t < a[i].top.size(); ++t) EXPECT_NEAR(a[i].top[t].second, b[i].top[t].second, 1e-3) << i;
  }
}

struct Outcome {
  std::vector<Answer> answers;
  std::vector<StepStats> steps;
  std::vector<int32_t> short_chunks;
  int32_t graph_steps = 0, decode_steps = 0;
};

class TorchModelRunnerCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    hash_path_ = ::testing::TempDir() + "/hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  LoadOptions Options(bool cuda_graphs, DTypeChoice dtype, const std::string& device = "cuda:0") const {
    LoadOptions options;
    options.model_folder = kFolder;
    options.dtype = dtype;
    options.device = device;
    options.hash = hash_path_;
    options.allow_untrained_hash = true;
    options.max_tokens_in_cache = 16384;
    options.max_warm_up_seconds = 0;
    options.cuda_graphs = cuda_graphs;
    options.scheduler.max_running = 12;
    options.quality.sample_every = 0;
    return options;
  }

  // All at once.
  Outcome Generate(const std::vector<Ask>& asks, bool cuda_graphs, const Shape& shape, DTypeChoice dtype,
                   const std::string& device = "cuda:0") {
    return Generate(asks, shape, Options(cuda_graphs, dtype, device));
  }
  Outcome Generate(const std::vector<Ask>& asks, const Shape& shape, const LoadOptions& options) {
    RecordingObserver observer;
    Outcome outcome;
    auto loaded = LoadEngine(options, &observer);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (!loaded.ok()) return outcome;
    outcome.short_chunks = loaded->engine->options().scheduler.short_chunks;
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
      if (shape) shape(&request);
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
      answer.logprobs = sink->logprobs();
      answer.prompt_logprobs = sink->prompt_logprobs();
      outcome.answers.push_back(answer);
    }
    loaded->engine.reset();
    outcome.steps = observer.steps();
    for (const StepStats& step : outcome.steps) {
      outcome.graph_steps += step.cuda_graph ? 1 : 0;
      outcome.decode_steps += step.num_decode_rows > 0 && step.num_prefill_tokens == 0 ? 1 : 0;
    }
    return outcome;
  }

  std::string hash_path_;
};

TEST_F(TorchModelRunnerCudaTest, GraphsGiveTheSameBits) {
  for (const Shape& shape : {Shape(WithLogprobs), Shape(WithEverything)}) {
    for (const auto& [dtype, quantization, cache] :
         {std::make_tuple(DTypeChoice::kFp32, Quantization::kNone, KvCacheDType::kAuto),
          std::make_tuple(DTypeChoice::kBf16, Quantization::kNone, KvCacheDType::kAuto),
          std::make_tuple(DTypeChoice::kBf16, Quantization::kFp8, KvCacheDType::kAuto),
          std::make_tuple(DTypeChoice::kBf16, Quantization::kNone, KvCacheDType::kFp8)}) {
      for (const RetrievalMode mode : {RetrievalMode::kDense, RetrievalMode::kSparse}) {
        const std::vector<Ask> asks = {{900, mode}};
        LoadOptions options = Options(false, dtype);
        options.quantization = quantization;
        options.kv_cache_dtype = cache;
        const Outcome eager = Generate(asks, shape, options);
        options.cuda_graphs = true;
        const Outcome graph = Generate(asks, shape, options);
        ASSERT_EQ(eager.answers.size(), 1u);
        ASSERT_EQ(graph.answers.size(), 1u);
        EXPECT_EQ(eager.graph_steps, 0);
        EXPECT_EQ(graph.graph_steps, graph.decode_steps);
        EXPECT_FALSE(graph.answers[0].token_ids.empty());
        EXPECT_EQ(graph.answers[0].token_ids, eager.answers[0].token_ids);
        ExpectSameBits(graph.answers[0].logprobs, eager.answers[0].logprobs);
        ExpectSameBits(graph.answers[0].prompt_logprobs, eager.answers[0].prompt_logprobs);
      }
    }
  }
}

// Chunks of every length, beside rows that decode: none of them may meet the kernel that reads no e4m3.
TEST_F(TorchModelRunnerCudaTest, AnFp8CacheServesChunksBesideRows) {
  std::vector<Ask> asks;
  for (const int32_t tokens : {900, 3, 64, 127, 128, 129, 300, 1}) asks.push_back({tokens, RetrievalMode::kSparse});
  LoadOptions options = Options(true, DTypeChoice::kBf16);
  options.kv_cache_dtype = KvCacheDType::kFp8;
  options.scheduler.max_step_tokens = 100;
  options.quality.sample_every = 1;
  const Outcome outcome = Generate(asks, WithLogprobs, options);
  ASSERT_EQ(outcome.answers.size(), asks.size());
  EXPECT_EQ(outcome.short_chunks, std::vector<int32_t>{128});
  // Each prompt in one chunk, alone. bf16's roundings cross some of e4m3's, so the first tokens' logprobs are near.
  options.scheduler.max_step_tokens = 1024;
  for (size_t i = 0; i < asks.size(); ++i) {
    const Outcome whole = Generate({asks[i]}, WithLogprobs, options);
    ASSERT_EQ(whole.answers.size(), 1u);
    ASSERT_EQ(whole.answers[0].logprobs.size(), kOutputTokens);
    ASSERT_EQ(outcome.answers[i].logprobs.size(), kOutputTokens);
    EXPECT_NEAR(outcome.answers[i].logprobs[0].logprob, whole.answers[0].logprobs[0].logprob, 0.3)
        << asks[i].prompt_tokens;
  }
  int num_measured = 0;
  for (const StepStats& step : outcome.steps) {
    EXPECT_FALSE(step.cuda_graph && step.num_prefill_tokens > 0);
    num_measured += step.quality.has_value();
  }
  EXPECT_GT(num_measured, 0);
  EXPECT_GT(outcome.graph_steps, 0);
}

TEST_F(TorchModelRunnerCudaTest, TheDevicesClocksTellWhatRetrievalTakes) {
  for (const DTypeChoice dtype : {DTypeChoice::kBf16, DTypeChoice::kFp32}) {
    for (const bool cuda_graphs : {true, false}) {
      for (const bool mixed : {false, true}) {
        std::vector<Ask> asks = {{900, RetrievalMode::kSparse}, {700, RetrievalMode::kSparse}};
        if (mixed) asks.push_back({300, RetrievalMode::kDense});
        int index = 0;  // with sinks of their own: runs of rows, which no graph serves
        const Outcome outcome = Generate(
            asks, cuda_graphs, [&](GenerateRequest* r) { r->retrieval.sink_tokens = mixed ? 4 : index++; }, dtype);
        int num_timed = 0;
        for (const StepStats& step : outcome.steps) {
          if (!step.retrieval.has_value()) continue;
          ++num_timed;
          const RetrievalSeconds& seconds = *step.retrieval;
          EXPECT_GT(seconds.encode, 0);
          EXPECT_GT(seconds.score, 0);
          EXPECT_GT(seconds.select, 0);
          EXPECT_GT(seconds.attend, 0);
          const double sum = seconds.encode + seconds.score + seconds.select + seconds.attend;
          if (mixed) {
            EXPECT_NEAR(sum, seconds.total, 1e-8);
          } else {
            EXPECT_LE(sum, seconds.total + 1e-8);
          }
          EXPECT_LT(seconds.total, step.step_seconds + 1e-3) << "a step's results may come while the one after runs";
        }
        EXPECT_GE(num_timed, 1);
      }
    }
  }
}

// Every step has its sample: what a replayed step's row is found to be is what it is in a step enqueued kernel by
// kernel.
TEST_F(TorchModelRunnerCudaTest, MeasuringBesideTheStepsChangesNoBitAndDependsOnNone) {
  for (const int32_t num_rows : {1, 3}) {
    std::vector<Ask> asks;
    for (int32_t i = 0; i < num_rows; ++i) asks.push_back({900 + 333 * i, RetrievalMode::kSparse});
    Outcome outcomes[3];
    for (int i = 0; i < 3; ++i) {
      LoadOptions options = Options(/*cuda_graphs=*/i != 1, DTypeChoice::kFp32);
      options.quality.sample_every = i == 2 ? 0 : 1;
      outcomes[i] = Generate(asks, WithLogprobs, options);
      ASSERT_EQ(outcomes[i].answers.size(), asks.size());
    }
    std::vector<QualitySample> samples[3];
    for (int i = 0; i < 3; ++i) {
      for (const StepStats& step : outcomes[i].steps) {
        if (step.quality.has_value()) samples[i].push_back(*step.quality);
      }
      for (size_t a = 0; a < asks.size(); ++a) {
        EXPECT_EQ(outcomes[i].answers[a].token_ids, outcomes[2].answers[a].token_ids);
        if (num_rows == 1) ExpectSameBits(outcomes[i].answers[a].logprobs, outcomes[2].answers[a].logprobs);
      }
    }
    EXPECT_TRUE(samples[2].empty());
    EXPECT_GT(samples[0].size(), 30u);
    for (const QualitySample& sample : samples[0]) {
      EXPECT_GT(sample.measured.attention_mass, 0.05f);
      EXPECT_LE(sample.measured.attention_mass, 1.001f);
    }
    if (num_rows > 1) continue;  // which steps they share is up to the clock
    ASSERT_EQ(samples[0].size(), samples[1].size());
    for (size_t i = 0; i < samples[0].size(); ++i) {
      EXPECT_EQ(samples[0][i].layer, samples[1][i].layer);
      EXPECT_EQ(samples[0][i].measured.recall, samples[1][i].measured.recall);
      EXPECT_EQ(samples[0][i].measured.attention_mass, samples[1][i].measured.attention_mass);
      EXPECT_EQ(samples[0][i].measured.output_error, samples[1][i].measured.output_error);
    }
  }
}

// A cache too small for them: sequences lose pages, to others and for good, while their rows are measured.
TEST_F(TorchModelRunnerCudaTest, RowsAreMeasuredWhilePagesChangeHands) {
  std::vector<Ask> asks;
  for (int32_t i = 0; i < 10; ++i) asks.push_back({150 + 7 * i, RetrievalMode::kSparse});
  LoadOptions options = Options(true, DTypeChoice::kFp32);
  options.max_tokens_in_cache = 2048;
  options.quality.sample_every = 1;
  const Outcome outcome = Generate(
      asks, [](GenerateRequest* r) { r->stopping.max_tokens = 300; }, options);
  ASSERT_EQ(outcome.answers.size(), asks.size());
  int num_preempted = 0;
  for (const StepStats& step : outcome.steps) {
    num_preempted += step.num_preempted;
    if (!step.quality.has_value()) continue;
    EXPECT_GT(step.quality->measured.attention_mass, 0.05f);
    EXPECT_LE(step.quality->measured.attention_mass, 1.001f);
    EXPECT_LT(step.quality->measured.output_error, 10.0f);
  }
  EXPECT_GT(num_preempted, 0);
}

TEST_F(TorchModelRunnerCudaTest, TheDeviceSamplesWhatTheHostWould) {
  for (const Shape& shape : {Shape(WithLogprobs), Shape(WithEverything)}) {
    const std::vector<Ask> asks = {{300, RetrievalMode::kDense}, {65, RetrievalMode::kDense}};
    const Outcome host = Generate(asks, true, shape, DTypeChoice::kFp32, "cpu");
    const Outcome device = Generate(asks, true, shape, DTypeChoice::kFp32);
    ASSERT_EQ(host.answers.size(), asks.size());
    ASSERT_EQ(device.answers.size(), asks.size());
    for (size_t i = 0; i < asks.size(); ++i) {
      EXPECT_FALSE(host.answers[i].token_ids.empty());
      EXPECT_EQ(device.answers[i].token_ids, host.answers[i].token_ids) << i;
      ExpectNear(device.answers[i].logprobs, host.answers[i].logprobs);
      ExpectNear(device.answers[i].prompt_logprobs, host.answers[i].prompt_logprobs);
    }
  }
}

TEST_F(TorchModelRunnerCudaTest, PaddedAndMixedRowsGetTheTokensOfRowsAlone) {
  const std::vector<Ask> asks = {{300, RetrievalMode::kDense},  {900, RetrievalMode::kSparse},
                                 {65, RetrievalMode::kDense},   {1500, RetrievalMode::kSparse},
                                 {640, RetrievalMode::kSparse}, {33, RetrievalMode::kDense}};
  const Outcome together = Generate(asks, true, nullptr, DTypeChoice::kFp32);
  ASSERT_EQ(together.answers.size(), asks.size());
  EXPECT_GT(together.graph_steps, together.decode_steps / 2);
  for (size_t i = 0; i < asks.size(); ++i) {
    const Outcome alone = Generate({asks[i]}, false, nullptr, DTypeChoice::kFp32);
    ASSERT_EQ(alone.answers.size(), 1u);
    EXPECT_EQ(together.answers[i].token_ids, alone.answers[0].token_ids) << i;
  }
}

TEST_F(TorchModelRunnerCudaTest, AutoIsSparseLaterThanOnACpu) {
  LoadOptions options = Options(true, DTypeChoice::kBf16, "auto");
  options.retrieval.sparse_min_context = kSparseMinContextByDevice;
  const auto loaded = LoadEngine(options, nullptr);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->engine->model().device, "cuda:0");
  EXPECT_EQ(loaded->engine->options().retrieval.sparse_min_context, kGpuSparseMinContext);
}

}  // namespace
}  // namespace spotlight::engine
