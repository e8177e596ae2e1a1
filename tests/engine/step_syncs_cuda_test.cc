// Nothing on the host waits inside a step: neither LibTorch nor the engine asks the device to be done with anything
// between a step's launch and the wait for its tokens, nor for memory. LibTorch's own waits are found by its debug
// mode, others, and what is allocated, by standing between the program and the CUDA runtime.
#include <gtest/gtest.h>

#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/ops/pinned.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/runner_harness.h"

namespace {

std::atomic<int> num_waits{0}, num_allocations{0};

// The CUDA runtime's own function.
template <class Function>
Function* Next(const char* name) {
  auto* const next = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
  if (next == nullptr) std::abort();
  return next;
}

}  // namespace

// Found before the runtime's by LibTorch, too, which links it dynamically.
extern "C" {

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  static auto* const next = Next<decltype(cudaStreamSynchronize)>("cudaStreamSynchronize");
  ++num_waits;
  return next(stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  static auto* const next = Next<decltype(cudaEventSynchronize)>("cudaEventSynchronize");
  ++num_waits;
  return next(event);
}

cudaError_t cudaDeviceSynchronize() {
  static auto* const next = Next<decltype(cudaDeviceSynchronize)>("cudaDeviceSynchronize");
  ++num_waits;
  return next();
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t count, cudaMemcpyKind kind) {
  static auto* const next = Next<decltype(cudaMemcpy)>("cudaMemcpy");
  ++num_waits;
  return next(to, from, count, kind);
}

// It waits for all that the device has to do.
cudaError_t cudaFree(void* memory) {
  static auto* const next = Next<decltype(cudaFree)>("cudaFree");
  ++num_waits;
  return next(memory);
}

// Both may wait for it, and take their time in any case.
cudaError_t cudaMalloc(void** memory, size_t size) {
  static auto* const next = Next<cudaError_t(void**, size_t)>("cudaMalloc");
  ++num_allocations;
  return next(memory, size);
}

cudaError_t cudaHostAlloc(void** memory, size_t size, unsigned int flags) {
  static auto* const next = Next<cudaError_t(void**, size_t, unsigned int)>("cudaHostAlloc");
  ++num_allocations;
  return next(memory, size, flags);
}

}  // extern "C"

namespace spotlight::engine {
namespace {

constexpr char kFolder[] = "tests/testdata/tiny-llama";
constexpr int32_t kHashedLayer = 2;

void SetDebugMode(c10::cuda::SyncDebugMode mode) {
  c10::cuda::warning_state().set_sync_debug_mode(mode);
}

class StepSyncsCudaTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    options_.folder = kFolder;
    options_.hash_path = ::testing::TempDir() + "/step_syncs_hash.safetensors";
    options_.cuda_graphs = GetParam();
    options_.measure_quality = true;
    options_.max_rows = 16;
    const absl::Status written = testing::WriteUntrainedHash(kFolder, options_.hash_path);
    ASSERT_TRUE(written.ok()) << written;
  }
  void TearDown() override { SetDebugMode(c10::cuda::SyncDebugMode::L_DISABLED); }

  testing::RunnerOptions options_;
};

TEST_P(StepSyncsCudaTest, WaitsAreSeen) {
  const at::Tensor tensor = at::ones({4}, at::TensorOptions().device(at::kCUDA));
  const int before = num_waits;
  EXPECT_EQ(tensor.sum().item<float>(), 4.0f);
  EXPECT_GT(num_waits, before) << "LibTorch's calls of the CUDA runtime do not come by here";
  SetDebugMode(c10::cuda::SyncDebugMode::L_ERROR);
  EXPECT_THROW(tensor.sum().item<float>(), c10::Error);
}

TEST_P(StepSyncsCudaTest, AllocationsAreSeen) {
  // More than LibTorch keeps of what others, the case before among them, have given back.
  const int64_t bytes = (GetParam() ? 1301 : 301) << 20;
  int before = num_allocations;
  const at::Tensor device = at::ones({bytes}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA));
  EXPECT_GT(num_allocations, before);
  before = num_allocations;
  const at::Tensor pinned = PinnedEmpty({bytes}, at::kByte);
  EXPECT_GT(num_allocations, before);
}

TEST_P(StepSyncsCudaTest, NothingWaitsInsideAStep) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    options_.dtype = dtype;
    const std::unique_ptr<ModelRunner> runner = testing::MakeRunner(options_);
    ASSERT_NE(runner, nullptr);
    testing::Sequences sequences(options_.max_rows, options_.max_context);
    for (int32_t i = 0; i < 8; ++i) sequences.Prefill(runner.get(), i, 150 + 20 * i, 512);
    SamplingParams everything;
    everything.temperature = 0.9f;
    everything.top_p = 0.95f;
    everything.top_k = 60;
    everything.min_p = 0.01f;
    everything.repetition_penalty = 1.2f;
    everything.presence_penalty = 0.3f;
    everything.frequency_penalty = 0.1f;
    everything.logit_bias = {{17, 2.0f}};
    const std::vector<int32_t> prompt_ids = {5, 6, 7};
    std::vector<int32_t> output_ids = {8, 9}, banned_ids = {11};

    std::vector<std::pair<std::string, Batch>> steps;
    // Whatever is prepared at earlier steps (a library's kernels at the first, a graph at the third) is there in the
    // last.
    constexpr int32_t kTurns = 4;
    for (int32_t turn = 0; turn < kTurns; ++turn) {
      steps.clear();
      const auto add = [&](const std::string& name, Batch batch) { steps.emplace_back(name, std::move(batch)); };
      const std::vector<int32_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
      add("dense", sequences.Step(all, 0, 0, 0, false));
      add("sparse", sequences.Step(all, 8, 0, 0, false));
      add("mixed", sequences.Step({0, 1, 2, 3, 4}, 2, 0, 0, false));
      Batch timed = sequences.Step(all, 8, 0, 0, false);
      timed.time_retrieval = true;
      add("timed", std::move(timed));
      Batch judged = sequences.Step(all, 8, 0, 0, false);
      judged.quality = QualityTarget{3, kHashedLayer, 4, 0};
      add("judged", std::move(judged));
      Batch penalised = sequences.Step({0, 1}, 0, 0, 0, false);
      for (SampleRow& row : penalised.samples) {
        row.sampling = &everything;
        row.sequence_id += 100 + 10 * turn;  // new to the sampler
        row.prompt_token_ids = &prompt_ids;
        row.output_token_ids = &output_ids;
        row.output_index = 2;
        row.banned_token_ids = &banned_ids;
      }
      if (turn == kTurns - 1) {  // longer than ever before
        for (int32_t i = 0; i < 480; ++i) output_ids.push_back(5 + i % 300);
        for (int32_t i = 0; i < 100; ++i) banned_ids.push_back(12 + i);
      }
      add("penalised", std::move(penalised));
      add("short chunk", sequences.Step({}, 0, 8 + turn, 48, false));
      add("beside a short chunk", sequences.Step(all, 4, 8 + turn, 40, false));
      add("beside a long chunk", sequences.Step(all, 4, 8 + turn, 300, true));
      Batch scored = sequences.Step({}, 0, 12 + turn, 400, true);
      for (int32_t i = 0; i < 100; ++i) scored.scored.push_back({i, 5 + i, 2});
      add("scored", std::move(scored));
      if (turn < kTurns - 1) {
        for (const auto& [name, batch] : steps) testing::RunStep(runner.get(), batch);
      }
    }

    SetDebugMode(c10::cuda::SyncDebugMode::L_ERROR);
    int waits = 0;  // all but those for tokens
    const auto wait = [&](const std::string& name) {
      const auto result = runner->Wait();
      ASSERT_TRUE(result.ok()) << name << ": " << result.status();
      const bool has_graph = GetParam() && name != "beside a long chunk" && name != "scored";
      EXPECT_EQ(result->cuda_graph, has_graph) << name;
    };
    for (size_t i = 0; i < steps.size(); ++i) {
      const auto& [name, batch] = steps[i];
      EXPECT_FALSE(runner->PreparesFor(batch)) << name;
      const int before = num_waits, allocations = num_allocations;
      const absl::Status launched = runner->Launch(batch);
      EXPECT_TRUE(launched.ok()) << name << ": " << launched;
      EXPECT_EQ(num_waits, before) << name;
      EXPECT_EQ(num_allocations, allocations) << name;
      waits += num_waits - before;
      if (i == 0) continue;  // two at a time
      wait(steps[i - 1].first);
      EXPECT_GE(num_waits, before + 1) << "tokens were not waited for";
    }
    wait(steps.back().first);
    SetDebugMode(c10::cuda::SyncDebugMode::L_DISABLED);
    EXPECT_EQ(waits, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, StepSyncsCudaTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Graphs" : "Eager"; });

}  // namespace
}  // namespace spotlight::engine
