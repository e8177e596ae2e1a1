#include "benchmarks/engine/prefill_operations.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "engine/model/linear.h"
#include "engine/ops/pointwise.h"
#include "engine/ops/prefill_attention.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr int kRuns = 5;

double MsOf(const std::function<void()>& run, int runs) {
  c10::cuda::device_synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < runs; ++i) run();
  c10::cuda::device_synchronize();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / runs;
}

void Time(const std::function<void()>& run, OperationTime* time) {
  time->first_ms = MsOf(run, 1);
  time->ms = MsOf(run, kRuns);
}

at::Tensor Draw(at::IntArrayRef sizes, at::Device device) {
  return at::randn(sizes, at::TensorOptions().dtype(at::kBFloat16).device(device));
}

class Layer {
 public:
  Layer(const ModelConfig& config, at::Device device) : config_(config), device_(device) {}

  OperationTime TimeLinear(const std::string& name, int64_t tokens, int64_t in, int64_t out) const {
    OperationTime time{name, tokens, 0, 0, 0, 2.0 * tokens * in * out};
    const Linear linear(Draw({out, in}, device_), at::Tensor());
    const at::Tensor x = Draw({tokens, in}, device_);
    Time([&] { linear(x); }, &time);
    return time;
  }

  absl::StatusOr<OperationTime> TimeAttention(int64_t tokens, int64_t past) const {
    const int64_t context = past + tokens, pages = (context + kernels::kPageTokens - 1) / kernels::kPageTokens;
    const double pairs = static_cast<double>(tokens) * past + 0.5 * tokens * (tokens + 1.0);
    OperationTime time{"attention", tokens, past, 0, 0, 4.0 * config_.num_q_heads * config_.head_dim * pairs};
    const at::Tensor kv = Draw({pages, config_.num_kv_heads, kernels::kPageTokens, 2, config_.head_dim}, device_);
    const at::Tensor table = at::randperm(pages, at::TensorOptions().dtype(at::kLong).device(device_)).to(at::kInt);
    const at::Tensor q = Draw({tokens, config_.num_q_heads, config_.head_dim}, device_);
    const at::Tensor out = at::empty(q.sizes(), q.options());
    absl::Status status;
    Time(
        [&] {
          status.Update(PrefillAttention(q, kv, /*kv_scale=*/{}, table, context,
                                         1 / std::sqrt(double(config_.head_dim)), PrefillBlocks(), out));
        },
        &time);
    if (!status.ok()) return status;
    return time;
  }

  absl::StatusOr<std::vector<OperationTime>> TimePointwise(int64_t tokens) const {
    OperationTime norm{"norm", tokens, 0, 0, 0, 0}, silu{"silu", tokens, 0, 0, 0, 0};
    const at::Tensor x = Draw({tokens, config_.hidden_size}, device_), delta = Draw(x.sizes(), device_);
    const at::Tensor weight = Draw({config_.hidden_size}, device_);
    const at::Tensor gate_up = Draw({tokens, 2 * config_.intermediate_size}, device_);
    absl::Status status;
    Time([&] { status.Update(AddRmsNorm(x, delta, weight, 1e-6).status()); }, &norm);
    Time([&] { status.Update(SiluMul(gate_up).status()); }, &silu);
    if (!status.ok()) return status;
    return std::vector<OperationTime>{norm, silu};
  }

 private:
  const ModelConfig& config_;
  const at::Device device_;
};

}  // namespace

double MatmulTflops(int64_t size, at::Device device) {
  const c10::InferenceMode no_autograd;
  const at::Tensor a = Draw({size, size}, device), b = Draw({size, size}, device);
  OperationTime time;
  Time([&] { at::matmul(a, b); }, &time);
  return 2e-9 * size * size * size / time.ms;
}

absl::StatusOr<std::vector<OperationTime>> TimePrefillOperations(const ModelConfig& config, int64_t tokens,
                                                                 const std::vector<int64_t>& pasts, at::Device device) {
  const c10::InferenceMode no_autograd;
  const Layer layer(config, device);
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q_width = int64_t{config.num_q_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  std::vector<OperationTime> times = {layer.TimeLinear("qkv", tokens, hidden, q_width + 2 * kv_width),
                                      layer.TimeLinear("output", tokens, q_width, hidden),
                                      layer.TimeLinear("gate_up", tokens, hidden, 2 * intermediate),
                                      layer.TimeLinear("down", tokens, intermediate, hidden)};
  auto pointwise = layer.TimePointwise(tokens);
  if (!pointwise.ok()) return pointwise.status();
  times.insert(times.end(), pointwise->begin(), pointwise->end());
  for (const int64_t past : pasts) {
    auto attention = layer.TimeAttention(tokens, past);
    if (!attention.ok()) return attention.status();
    times.push_back(*attention);
  }
  return times;
}

}  // namespace spotlight::engine
