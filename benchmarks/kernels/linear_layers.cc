// The linear layers of a decode step in Qwen2.5-7B's shape, in bf16 and with fp8 weights, beside a plain read of those
// in the same run; and all of a layer but its attention, with norms, residual and gate as operations of their own and
// as parts of the linear layers, all of them or all but the norms. Medians of 20 replays of a CUDA graph. Needs a GPU.
//
//   bazel run //benchmarks/kernels:linear_layers
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "benchmarks/kernels/device_kernels.h"
#include "benchmarks/kernels/median.h"
#include "kernels/pointwise.h"
#include "kernels/small_linear.h"

namespace spotlight::benchmarks {
namespace {

struct Shape {
  const char* name;
  int32_t num_out, num_in;
  int64_t bytes(bool fp8 = false) const { return int64_t{fp8 ? 1 : 2} * num_out * num_in; }
};

constexpr Shape kLayer[] = {
    {"qkv", 4608, 3584}, {"output", 3584, 3584}, {"gate and up", 37888, 3584}, {"down", 3584, 18944}};
constexpr Shape kHead = {"head", 152064, 3584};
// More weights than the L2 holds, so that each replay reads memory.
constexpr int kLayers = 4, kModelLayers = 28, kReplays = 20;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "linear_layers: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

void* Allocate(int64_t bytes) {
  void* data = nullptr;
  Check(cudaMalloc(&data, bytes), "cudaMalloc");
  Check(cudaMemset(data, 0, bytes), "cudaMemset");
  return data;
}

class Bench {
 public:
  Bench() {
    Check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    Check(cudaEventCreate(&begin_), "cudaEventCreate");
    Check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  cudaStream_t stream() const { return stream_; }

  double Microseconds(const std::function<void()>& enqueue) const {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    enqueue();
    Check(cudaStreamEndCapture(stream_, &graph), "capture");
    Check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    std::vector<double> times;
    for (int i = 0; i <= kReplays; ++i) {
      Check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      Check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch");
      Check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      Check(cudaStreamSynchronize(stream_), "replay");
      float milliseconds = 0;
      Check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
      if (i > 0) times.push_back(1e3 * milliseconds);
    }
    Check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return Median(times);
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
};

constexpr int32_t kHidden = 3584, kIntermediate = 18944;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "linear_layers: %s\n", std::string(status.message()).c_str());
  exit(1);
}

// All of a decoder's layer but its attention. Zeros everywhere.
class LayerChain {
 public:
  LayerChain(cudaStream_t stream, const float* scale) : scale_(scale) {
    execution_.device = kernels::DeviceKind::kCuda;
    execution_.stream = stream;
    for (void** array : {&residual_, &normed_, &update_, &norm_weight_, &attended_}) *array = Rows(kHidden);
    qkv_ = Rows(kLayer[0].num_out);
    gate_up_ = Rows(2 * kIntermediate);
    activated_ = Rows(kIntermediate);
  }

  // weights: as kLayer.
  void Separately(const std::vector<void*>& weights, int32_t rows, bool fp8) const {
    Norm(update_, rows);
    Check(kernels::SmallLinear(Params(0, weights, normed_, qkv_, rows, fp8)));
    Check(kernels::SmallLinear(Params(1, weights, attended_, update_, rows, fp8)));
    Norm(update_, rows);
    Check(kernels::SmallLinear(Params(2, weights, normed_, gate_up_, rows, fp8)));
    kernels::SiluMulParams silu;
    silu.execution = execution_;
    silu.dtype = kernels::DType::kBF16;
    silu.num_tokens = rows;
    silu.intermediate = kIntermediate;
    silu.gate_up = gate_up_;
    silu.out = activated_;
    Check(kernels::SiluMul(silu));
    Check(kernels::SmallLinear(Params(3, weights, activated_, update_, rows, fp8)));
  }

  // norms: as parts, too.
  void Together(const std::vector<void*>& weights, int32_t rows, bool fp8, bool norms) const {
    const void* const x = norms ? residual_ : normed_;
    if (!norms) Norm(nullptr, rows);
    Fused(Params(0, weights, x, qkv_, rows, fp8), norms, kernels::SmallLinearResult::kStore);
    Fused(Params(1, weights, attended_, residual_, rows, fp8), false, kernels::SmallLinearResult::kAdd);
    if (!norms) Norm(nullptr, rows);
    Fused(Params(2, weights, x, activated_, rows, fp8), norms, kernels::SmallLinearResult::kSiluMul);
    Fused(Params(3, weights, activated_, residual_, rows, fp8), false, kernels::SmallLinearResult::kAdd);
  }

  kernels::SmallLinearParams Params(const Shape& shape, const void* weight, const void* x, void* out, int32_t rows,
                                    bool fp8) const {
    kernels::SmallLinearParams params;
    params.execution = execution_;
    params.dtype = kernels::DType::kBF16;
    params.num_rows = rows;
    params.num_in = shape.num_in;
    params.num_out = shape.num_out;
    params.x = x;
    params.weight = weight;
    params.weight_scale = fp8 ? scale_ : nullptr;
    params.out = out;
    return params;
  }

 private:
  static void* Rows(int32_t width) { return Allocate(int64_t{2} * kernels::kMaxSmallLinearFp8Rows * width); }

  kernels::SmallLinearParams Params(int which, const std::vector<void*>& weights, const void* x, void* out,
                                    int32_t rows, bool fp8) const {
    return Params(kLayer[which], weights[which], x, out, rows, fp8);
  }
  void Fused(kernels::SmallLinearParams params, bool norm, kernels::SmallLinearResult result) const {
    params.norm_weight = norm ? norm_weight_ : nullptr;
    params.norm_eps = 1e-6f;
    params.result = result;
    Check(kernels::SmallLinear(params));
  }
  void Norm(const void* delta, int32_t rows) const {
    kernels::AddRmsNormParams params;
    params.execution = execution_;
    params.dtype = kernels::DType::kBF16;
    params.num_tokens = rows;
    params.hidden = kHidden;
    params.eps = 1e-6f;
    params.x = residual_;
    params.delta = delta;
    params.weight = norm_weight_;
    params.out = normed_;
    Check(kernels::AddRmsNorm(params));
  }

  kernels::Execution execution_;
  const float* const scale_;
  void *residual_, *normed_, *update_, *norm_weight_, *attended_, *qkv_, *gate_up_, *activated_;
};

int Run() {
  const Bench bench;
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  void* const x = Allocate(int64_t{2} * kernels::kMaxSmallLinearFp8Rows * kIntermediate);
  void* const out = Allocate(int64_t{2} * kernels::kMaxSmallLinearFp8Rows * kHead.num_out);
  const auto* const scale = static_cast<const float*>(Allocate(int64_t{4} * kHead.num_out));
  auto* const sink = static_cast<uint32_t*>(Allocate(16));
  std::vector<std::vector<void*>> weights(kLayers);
  for (auto& layer : weights) {
    for (const Shape& shape : kLayer) layer.push_back(Allocate(shape.bytes()));
  }
  void* const head = Allocate(kHead.bytes());

  const LayerChain chain(bench.stream(), scale);
  const auto multiply = [&](const Shape& shape, const void* weight, int32_t rows, bool fp8) {
    Check(kernels::SmallLinear(chain.Params(shape, weight, x, out, rows, fp8)));
  };
  const auto row = [&](const char* name, int32_t rows, int64_t bytes, double us, double read_us) {
    printf("%-12s %2d rows  %7.1f us  %.2f TB/s  plain read %7.1f us  %3.0f%%\n", name, rows, us, 1e-6 * bytes / us,
           read_us, 100 * read_us / us);
  };

  const auto measure = [&](int32_t rows, bool fp8) {
    int64_t layer_bytes = 0;
    for (const Shape& shape : kLayer) layer_bytes += shape.bytes(fp8);
    const auto read = [&](size_t i) {
      for (const auto& layer : weights) ReadPlainly(bench.stream(), layer[i], kLayer[i].bytes(fp8), sink);
    };
    for (size_t i = 0; i < std::size(kLayer); ++i) {
      const double us = bench.Microseconds([&] {
        for (const auto& layer : weights) multiply(kLayer[i], layer[i], rows, fp8);
      });
      row(kLayer[i].name, rows, kLayer[i].bytes(fp8), us / kLayers, bench.Microseconds([&] { read(i); }) / kLayers);
    }
    const double layers = bench.Microseconds([&] {
      for (const auto& layer : weights) {
        for (size_t i = 0; i < layer.size(); ++i) multiply(kLayer[i], layer[i], rows, fp8);
      }
    });
    const double plain = bench.Microseconds([&] {
      for (const auto& layer : weights) {
        for (size_t i = 0; i < layer.size(); ++i) ReadPlainly(bench.stream(), layer[i], kLayer[i].bytes(fp8), sink);
      }
    });
    row("a layer", rows, layer_bytes, layers / kLayers, plain / kLayers);
    const auto model = [&](const char* name, double us) {
      row(name, rows, kModelLayers * layer_bytes, us / kLayers * kModelLayers, plain / kLayers * kModelLayers);
    };
    model("28 layers", layers);
    model("+ pointwise", bench.Microseconds([&] {
      for (const auto& layer : weights) chain.Separately(layer, rows, fp8);
    }));
    model("but norms", bench.Microseconds([&] {
      for (const auto& layer : weights) chain.Together(layer, rows, fp8, false);
    }));
    if (fp8) return;
    model("as one", bench.Microseconds([&] {
      for (const auto& layer : weights) chain.Together(layer, rows, fp8, true);
    }));
  };
  printf("%s, weights read from memory in every replay: bf16\n", device.name);
  const double plain_head = bench.Microseconds([&] { ReadPlainly(bench.stream(), head, kHead.bytes(), sink); });
  for (const int32_t rows : {1, 8, 16}) {
    measure(rows, /*fp8=*/false);
    row("head", rows, kHead.bytes(), bench.Microseconds([&] { multiply(kHead, head, rows, false); }), plain_head);
  }
  printf("fp8\n");
  for (const int32_t rows : {1, 8, 16, 32}) measure(rows, /*fp8=*/true);
  return 0;
}

}  // namespace
}  // namespace spotlight::benchmarks

int main() {
  return spotlight::benchmarks::Run();
}
