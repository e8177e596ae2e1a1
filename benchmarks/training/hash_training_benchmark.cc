// What one training step of all hashes of a model costs, without the model: random activations of its shape.
// Prints milliseconds a step (median) and the peak of the device's memory beside what StepBytes promises.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <c10/core/Allocator.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "training/hash_trainer.h"

ABSL_FLAG(std::string, shape, "smollm2",
          "smollm2: 28 layers of 9 / 3 heads of 64. qwen7b: 26 layers of 28 / 4 of 128.");
ABSL_FLAG(std::string, device, "cpu", "cpu or cuda");
ABSL_FLAG(int, tokens, 4096, "of a sequence");
ABSL_FLAG(int, steps, 5, "measured, after one that warms up");
ABSL_FLAG(std::string, encoder, "z", "z, linear or paper");
ABSL_FLAG(bool, tf32, false, "TF32 for the matrix products");

namespace spotlight::training {
namespace {

// Peak of what this thread has allocated on the CPU.
class CpuPeak : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device device) override {
    if (!device.is_cpu()) return;
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0, peak_ = 0;
};

HashShape ShapeOf(const std::string& name) {
  HashShape shape;
  shape.num_layers = 28;
  shape.num_q_heads = 9;
  shape.num_kv_heads = 3;
  shape.head_dim = 64;
  shape.target_context = 8192;
  if (name == "qwen7b") {
    shape.num_layers = 26;
    shape.num_q_heads = 28;
    shape.num_kv_heads = 4;
    shape.head_dim = 128;
    shape.target_context = 32768;
  }
  for (int i = 0; i < shape.head_dim / 2; ++i) {
    shape.inv_freq.push_back(std::pow(1e5f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.head_dim)));
  }
  return shape;
}

int Run() {
  const std::string device_name = absl::GetFlag(FLAGS_device), encoder = absl::GetFlag(FLAGS_encoder);
  const at::Device device(device_name);
  const HashShape shape = ShapeOf(absl::GetFlag(FLAGS_shape));
  Recipe recipe;
  recipe.tokens_per_sequence = absl::GetFlag(FLAGS_tokens);
  if (encoder != "z") {
    recipe.encoder = encoder == "paper" ? EncoderKind::kPaper : EncoderKind::kLinear;
    recipe.query = QueryForm::kBits;
    recipe.per_query_head = encoder == "paper";
    recipe.loss = encoder == "paper" ? Loss::kBradleyTerry : Loss::kCrossEntropy;
    recipe.prefix_bits = 0;
  }
  at::globalContext().setAllowTF32CuBLAS(absl::GetFlag(FLAGS_tf32));
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const int64_t tokens = recipe.tokens_per_sequence;
  Activations sequence;
  sequence.q = at::randn({shape.num_layers, shape.num_q_heads, tokens, shape.head_dim}, options);
  sequence.k = at::randn({shape.num_layers, shape.num_kv_heads, tokens, shape.head_dim}, options);
  const int64_t activation_bytes = 2 * (sequence.q.numel() + sequence.k.numel());

  auto peak = std::make_shared<CpuPeak>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, peak);
  auto trainer = HashTrainer::Create(recipe, shape, {sequence}, device);
  if (!trainer.ok()) {
    std::fprintf(stderr, "%s\n", trainer.status().ToString().c_str());
    return 1;
  }
  std::vector<double> milliseconds;
  for (int step = 0; step <= absl::GetFlag(FLAGS_steps); ++step) {
    const auto begin = std::chrono::steady_clock::now();
    (*trainer)->Step(sequence, step);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
    if (step > 0) milliseconds.push_back(spent.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  int64_t peak_bytes = peak->peak();
  if (device.is_cuda()) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    peak_bytes = stats.allocated_bytes[0].peak - activation_bytes;
  }
  const auto begin = std::chrono::steady_clock::now();
  (*trainer)->Evaluate(sequence, 0);
  const std::chrono::duration<double, std::milli> evaluation = std::chrono::steady_clock::now() - begin;
  std::printf(
      "%-8s %-6s tokens %6d tf32 %d  step %9.2f ms (%.2f to %.2f)  evaluation %8.2f ms  peak %8.1f MB, promised %8.1f "
      "MB\n",
      absl::GetFlag(FLAGS_shape).c_str(), encoder.c_str(), recipe.tokens_per_sequence, absl::GetFlag(FLAGS_tf32),
      milliseconds[milliseconds.size() / 2], milliseconds.front(), milliseconds.back(), evaluation.count(),
      peak_bytes / 1e6, HashTrainer::StepBytes(recipe, shape, device.type()) / 1e6);
  return 0;
}

}  // namespace
}  // namespace spotlight::training

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  try {
    return spotlight::training::Run();
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  }
}
