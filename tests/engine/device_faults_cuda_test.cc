// What becomes of an engine, and of those who wait for it, when a GPU has no memory left or is lost. Every case runs in
// a process of its own: a device that is lost stays so as long as the process lives.
#include <gtest/gtest.h>

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <cstdio>
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

constexpr char kFolder[] = "tests/testdata/tiny-llama";
using testing::kMiB;
using testing::RunApart;
using testing::TakenMemory;

constexpr double kMaxEndSeconds = 10;

// What the allocator can still hand out of the blocks that it holds, on each stream that an engine may run on: a block
// that is in use in part stays its own, and a small model's step fits in the rest of one.
class TakenRests {
 public:
  TakenRests() {
    std::vector<cudaStream_t> streams = {c10::cuda::getDefaultCUDAStream().stream()};
    for (const bool high : {true, false}) {
      for (int i = 0; i < kStreamsInAPool; ++i) streams.push_back(c10::cuda::getStreamFromPool(high).stream());
    }
    for (const cudaStream_t stream : streams) {
      for (size_t bytes = 64 * kMiB; bytes >= kSmallestBlock; bytes /= 2) {
        try {
          while (true) taken_.push_back(c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream));
        } catch (const c10::OutOfMemoryError&) {
        }
      }
    }
  }
  ~TakenRests() {
    for (void* const memory : taken_) c10::cuda::CUDACachingAllocator::raw_delete(memory);
  }

 private:
  static constexpr int kStreamsInAPool = 32;  // c10 hands them out in turns
  static constexpr size_t kSmallestBlock = 512;

  std::vector<void*> taken_;
};

// A kernel that fails an assertion: nothing runs on the device any more.
void LoseDevice() {
  const c10::InferenceMode no_autograd;
  const auto options = at::TensorOptions().device(at::kCUDA, 0);
  const at::Tensor values = at::zeros({4}, options.dtype(at::kFloat));
  const at::Tensor index = at::tensor({int64_t{1} << 20}, at::kLong).to(at::Device(at::kCUDA, 0));
  at::index_select(values, 0, index);
  EXPECT_NE(cudaDeviceSynchronize(), cudaSuccess);
}

class DeviceFaultsDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
    hash_path_ = ::testing::TempDir() + "/device_faults_hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
  }

  LoadOptions Options() const {
    LoadOptions options;
    options.model_folder = kFolder;
    options.dtype = DTypeChoice::kBf16;
    options.device = "cuda:0";
    options.hash = hash_path_;
    options.allow_untrained_hash = true;
    options.max_tokens_in_cache = 65536;
    options.max_warm_up_seconds = 0;
    options.scheduler.max_running = 4;
    options.scheduler.max_token_gap_seconds = 10;  // prompts beside streams in long chunks
    options.quality.sample_every = 1;
    return options;
  }

  static std::shared_ptr<RecordingSink> Submit(Engine* engine, int32_t prompt_tokens, int32_t max_tokens,
                                               RetrievalMode mode) {
    GenerateRequest request;
    std::vector<int32_t> prompt;
    for (int32_t t = 0; t < prompt_tokens; ++t) prompt.push_back(5 + (t * 37 + prompt_tokens) % 400);
    request.request_id = std::to_string(prompt_tokens);
    request.prompt = TokenPrompt{std::move(prompt)};
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.retrieval.mode = mode;
    const auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = engine->Submit(std::move(request), sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }

  // Streams that go on for seconds, under way.
  static std::vector<std::shared_ptr<RecordingSink>> Stream(Engine* engine, int32_t count) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int32_t i = 0; i < count; ++i) {
      const RetrievalMode mode = i % 2 == 0 ? RetrievalMode::kSparse : RetrievalMode::kDense;
      sinks.push_back(Submit(engine, 300 + i, 7000, mode));
    }
    for (const auto& sink : sinks) sink->WaitForDeltas(20);
    return sinks;
  }

  // Every stream ends, once, and so does the engine.
  static void ExpectStopped(std::unique_ptr<Engine> engine, const std::vector<std::shared_ptr<RecordingSink>>& sinks,
                            const std::string& message) {
    const absl::Time start = absl::Now();
    for (const auto& sink : sinks) {
      const Finish finish = sink->WaitForFinish();
      EXPECT_EQ(finish.status.code(), absl::StatusCode::kInternal) << finish.status;
      EXPECT_TRUE(absl::StartsWith(finish.status.message(), "device fault: ")) << finish.status;
      EXPECT_TRUE(absl::StrContains(finish.status.message(), message)) << finish.status;
      EXPECT_EQ(finish.reason, FinishReason::kError);
    }
    std::printf("fault: %s\n", std::string(sinks.front()->finish().status.message()).c_str());
    const EngineLoad load = engine->Load();
    EXPECT_FALSE(load.healthy);
    EXPECT_TRUE(absl::StrContains(load.fault, message)) << load.fault;
    EXPECT_EQ(load.num_running, 0);
    EXPECT_EQ(load.num_free_pages, load.num_pages);
    GenerateRequest late;
    late.request_id = "late";
    late.prompt = TokenPrompt{{5, 6, 7}};
    EXPECT_EQ(engine->Submit(late, std::make_shared<RecordingSink>()).code(), absl::StatusCode::kUnavailable);
    engine.reset();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    std::printf("stopped after %.2f s\n", seconds);
    EXPECT_LT(seconds, kMaxEndSeconds);
  }

  void ExpectServes(const LoadOptions& options) const {
    RecordingObserver observer;
    auto loaded = LoadEngine(options, &observer);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_TRUE(loaded->engine->Load().healthy);
    const Finish finish = Submit(loaded->engine.get(), 600, 20, RetrievalMode::kSparse)->WaitForFinish();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
  }

  // A long prompt beside streams, or the streams' own eager steps, when nothing can be allocated any more.
  void RunOutOfMemoryInAStep(bool cuda_graphs) const {
    LoadOptions options = Options();
    options.cuda_graphs = cuda_graphs;
    {
      RecordingObserver observer;
      auto loaded = LoadEngine(options, &observer);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      auto sinks = Stream(loaded->engine.get(), 3);
      const TakenMemory taken(0);
      const TakenRests rests;
      // Graphs have their memory; a long chunk and eager steps have not, so those may have ended the engine by now.
      if (cuda_graphs) sinks.push_back(Submit(loaded->engine.get(), 8000, 10, RetrievalMode::kDense));
      ExpectStopped(std::move(loaded->engine), sinks, "out of memory");
    }
    ExpectServes(options);  // the device is as it was
  }

  void LoseTheDeviceInAStep(bool cuda_graphs) const {
    LoadOptions options = Options();
    options.cuda_graphs = cuda_graphs;
    RecordingObserver observer;
    auto loaded = LoadEngine(options, &observer);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    auto sinks = Stream(loaded->engine.get(), 4);
    for (int32_t i = 0; i < 3; ++i) {  // these wait: four may run
      sinks.push_back(Submit(loaded->engine.get(), 100 + i, 10, RetrievalMode::kDense));
    }
    LoseDevice();
    ExpectStopped(std::move(loaded->engine), sinks, "CUDA");
  }

  std::string hash_path_;
};

TEST_F(DeviceFaultsDeathTest, TooLittleMemoryAtStartIsRefusedAndTakesNothing) {
  RunApart([this] {
    // From nothing at all on: what is short is the context of a library, a kernel's code, the weights, the cache, or
    // what the graphs take.
    for (const size_t left_mib : {0, 4, 32, 128, 224, 450, 800}) {
      for (const bool sized : {true, false}) {
        LoadOptions options = Options();
        if (sized) options.max_tokens_in_cache = 0;  // from what is free
        const TakenMemory taken(left_mib * kMiB);
        RecordingObserver observer;
        const auto loaded = LoadEngine(options, &observer);
        std::printf("%zu MiB, cache %s: %s\n", left_mib, sized ? "sized" : "given",
                    loaded.status().ToString().substr(0, 160).c_str());
        if (left_mib <= 4 || !loaded.ok()) {
          EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted) << loaded.status();
        }
        if (left_mib >= 800) {
          EXPECT_TRUE(loaded.ok()) << loaded.status();
        }
      }
    }
    LoadOptions options = Options();
    {
      const TakenMemory taken(800 * kMiB);
      options.max_tokens_in_cache = 4 << 20;
      RecordingObserver observer;
      const auto loaded = LoadEngine(options, &observer);
      EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted) << loaded.status();
      EXPECT_TRUE(absl::StartsWith(loaded.status().message(), "a KV cache of 4194304 tokens (--max-tokens-in-cache)"))
          << loaded.status();
    }
    ExpectServes(options);
  });
}

TEST_F(DeviceFaultsDeathTest, NoMemoryInAStepEndsEveryStreamOnce) {
  RunApart([this] { RunOutOfMemoryInAStep(/*cuda_graphs=*/true); });
}

TEST_F(DeviceFaultsDeathTest, NoMemoryInAnEagerStepEndsEveryStreamOnce) {
  RunApart([this] { RunOutOfMemoryInAStep(/*cuda_graphs=*/false); });
}

TEST_F(DeviceFaultsDeathTest, ALostDeviceEndsEveryStreamOnce) {
  RunApart([this] { LoseTheDeviceInAStep(/*cuda_graphs=*/true); });
}

TEST_F(DeviceFaultsDeathTest, ADeviceLostInAnEagerStepEndsEveryStreamOnce) {
  RunApart([this] { LoseTheDeviceInAStep(/*cuda_graphs=*/false); });
}

}  // namespace
}  // namespace spotlight::engine
