// The start of a GPU's engine: what the first prompts need not wait for, and what memory is left for steps. Every case
// runs in processes of its own, for libraries that were used once stay in a process's memory.
#include <gtest/gtest.h>

#include <cuda_runtime_api.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/load.h"
#include "tests/testing/device_memory.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

constexpr char kTinyFolder[] = "tests/testdata/tiny-llama";

// A matrix library may load a kernel for a number of rows that is new to it. A plan of cuDNN's takes 50 ms at least.
constexpr double kSlackSeconds = 0.02;

// Four layers of Qwen2.5-7B's shape.
constexpr char kConfig[] = R"({
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
  "num_hidden_layers": 4, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu",
  "max_position_embeddings": 65536, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true,
  "torch_dtype": "bfloat16", "vocab_size": 512, "eos_token_id": 511})";

std::shared_ptr<RecordingSink> Submit(Engine* engine, int32_t prompt_tokens, int32_t max_tokens, int32_t salt,
                                      RetrievalMode mode) {
  GenerateRequest request;
  std::vector<int32_t> prompt;
  for (int32_t t = 0; t < prompt_tokens; ++t) prompt.push_back(5 + (t * 37 + salt * 11) % 400);
  request.request_id = std::to_string(salt);
  request.prompt = TokenPrompt{std::move(prompt)};
  request.sampling.temperature = 0.0f;
  request.stopping.max_tokens = max_tokens;
  request.stopping.ignore_eos = true;
  request.retrieval.mode = mode;
  request.bypass_prefix_cache = true;
  const auto sink = std::make_shared<RecordingSink>();
  const absl::Status status = engine->Submit(std::move(request), sink);
  EXPECT_TRUE(status.ok()) << status;
  return status.ok() ? sink : nullptr;
}

double SecondsOfPrompt(Engine* engine, int32_t prompt_tokens, int32_t salt) {
  const absl::Time start = absl::Now();
  const auto sink = Submit(engine, prompt_tokens, 1, salt, RetrievalMode::kDense);
  if (sink == nullptr) return 0;
  const Finish finish = sink->WaitForFinish();
  EXPECT_TRUE(finish.status.ok()) << finish.status;
  return absl::ToDoubleSeconds(absl::Now() - start);
}

size_t FreeMiB() {
  size_t free_bytes = 0, total_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  return free_bytes / testing::kMiB;
}

class WarmStartDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
    hash_path_ = ::testing::TempDir() + "/warm_start_hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kTinyFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  // Starts with so much memory left and all of that for the cache, or a given one. Then every request is served, or the
  // start was refused before there was a cache.
  void ServesOrRefuses(size_t left_mib, int64_t max_tokens_in_cache, bool must_serve) const {
    ASSERT_EQ(cudaFree(nullptr), cudaSuccess);
    const testing::TakenMemory taken(left_mib * testing::kMiB);
    LoadOptions options;
    options.model_folder = kTinyFolder;
    options.dtype = DTypeChoice::kBf16;
    options.device = "cuda:0";
    options.hash = hash_path_;
    options.allow_untrained_hash = true;
    options.max_tokens_in_cache = max_tokens_in_cache;
    if (max_tokens_in_cache == 0) options.cache_memory_share = 1;
    options.scheduler.max_running = 64;
    options.quality.sample_every = 4;
    RecordingObserver observer;
    auto loaded = LoadEngine(options, &observer);
    std::printf("%zu MiB left, %lld tokens: %s\n", left_mib, static_cast<long long>(max_tokens_in_cache),
                loaded.ok() ? "starts" : std::string(loaded.status().message()).c_str());
    if (!loaded.ok()) {
      EXPECT_FALSE(must_serve) << loaded.status();
      EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted) << loaded.status();
      const std::string message(loaded.status().message());
      EXPECT_TRUE(absl::StartsWith(message, "no memory for a KV cache: ") ||
                  absl::StartsWith(message, "a KV cache of ") || absl::StartsWith(message, "warming up "))
          << message;
      return;
    }
    Engine* const engine = loaded->engine.get();
    std::printf("  a cache of %d pages, %zu MiB free", engine->options().scheduler.num_pages, FreeMiB());
    const int32_t longest = engine->model().max_context_tokens - 60;
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int32_t i = 0; i < 64; ++i) {
      const RetrievalMode mode = i % 3 == 0 ? RetrievalMode::kDense : RetrievalMode::kSparse;
      const int32_t prompt_tokens = i % 16 == 15 ? 8000 : 100 + 97 * i;
      sinks.push_back(Submit(engine, std::min(prompt_tokens, longest), 40, i, mode));
    }
    for (const auto& sink : sinks) {
      ASSERT_NE(sink, nullptr);
      const Finish finish = sink->WaitForFinish();
      EXPECT_TRUE(finish.status.ok()) << finish.status;
    }
    std::printf(", %zu when all were served\n", FreeMiB());
    EXPECT_TRUE(engine->Load().healthy) << engine->Load().fault;
  }

  std::string hash_path_;
};

TEST_F(WarmStartDeathTest, TheFirstPromptTakesAsLongAsTheNext) {
  testing::RunApart([] {
    LoadOptions options;
    options.model_folder = ::testing::TempDir() + "/four-layers";
    ::mkdir(options.model_folder.c_str(), 0700);  // or it is there
    std::ofstream(options.model_folder + "/config.json") << kConfig;
    options.hash = "none";
    options.random_weights_seed = 1;
    options.dtype = DTypeChoice::kBf16;
    options.device = "cuda:0";
    options.max_tokens_in_cache = 1 << 17;
    options.max_warm_up_seconds = 30;
    RecordingObserver observer;
    const absl::Time start = absl::Now();
    auto loaded = LoadEngine(options, &observer);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    std::printf("loaded in %.1f s\n", absl::ToDoubleSeconds(absl::Now() - start));
    bool warmed_up = false;
    for (const std::string& note : loaded->notes) {
      std::printf("%s\n", note.c_str());
      warmed_up |= absl::StartsWith(note, "warmed up in ");
      EXPECT_FALSE(absl::StrContains(note, "wait for")) << note;
    }
    EXPECT_TRUE(warmed_up);
    EXPECT_TRUE(observer.steps().empty()) << "nobody asked for them";
    int32_t salt = 0;
    // From the beginning on, in whole chunks and with ends of every kind.
    for (const int32_t prompt_tokens : {40000, 12345, 8192, 3000}) {
      const double first = SecondsOfPrompt(loaded->engine.get(), prompt_tokens, ++salt);
      double next = 1e9;
      for (int i = 0; i < 3; ++i) {
        next = std::min(next, SecondsOfPrompt(loaded->engine.get(), prompt_tokens, ++salt));
      }
      std::printf("%d tokens: first %.1f ms, then %.1f ms\n", prompt_tokens, 1e3 * first, 1e3 * next);
      EXPECT_LT(first, 2 * next + kSlackSeconds) << prompt_tokens;
    }
  });
}

TEST_F(WarmStartDeathTest, WithLittleMemoryItServesAllOrDoesNotStart) {
  testing::RunApart([this] { ServesOrRefuses(450, 0, false); });
  testing::RunApart([this] { ServesOrRefuses(700, 0, false); });
  testing::RunApart([this] { ServesOrRefuses(700, 32768, false); });
  testing::RunApart([this] { ServesOrRefuses(1000, 0, false); });
  testing::RunApart([this] { ServesOrRefuses(1000, 65536, false); });
  testing::RunApart([this] { ServesOrRefuses(1600, 0, true); });
  testing::RunApart([this] { ServesOrRefuses(1600, 65536, true); });
}

}  // namespace
}  // namespace spotlight::engine
