// The linear layers of a decode step in Qwen2.5-7B's shape, in bf16 and with fp8 weights, beside a plain read of those
// in the same run: medians of 20 replays of a CUDA graph. Needs a GPU.
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

int Run() {
  const Bench bench;
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  void* const x = Allocate(int64_t{2} * kernels::kMaxSmallLinearFp8Rows * 18944);
  void* const out = Allocate(int64_t{2} * kernels::kMaxSmallLinearFp8Rows * kHead.num_out);
  auto* const scale = static_cast<float*>(Allocate(int64_t{4} * kHead.num_out));
  auto* const sink = static_cast<uint32_t*>(Allocate(16));
  std::vector<std::vector<void*>> weights(kLayers);
  for (auto& layer : weights) {
    for (const Shape& shape : kLayer) layer.push_back(Allocate(shape.bytes()));
  }
  void* const head = Allocate(kHead.bytes());

  const auto multiply = [&](const Shape& shape, const void* weight, int32_t rows, bool fp8) {
    kernels::SmallLinearParams params;
    params.execution.device = kernels::DeviceKind::kCuda;
    params.execution.stream = bench.stream();
    params.dtype = kernels::DType::kBF16;
    params.num_rows = rows;
    params.num_in = shape.num_in;
    params.num_out = shape.num_out;
    params.x = x;
    params.weight = weight;
    params.weight_scale = fp8 ? scale : nullptr;
    params.out = out;
    if (auto status = kernels::SmallLinear(params); !status.ok()) {
      fprintf(stderr, "linear_layers: %s\n", std::string(status.message()).c_str());
      exit(1);
    }
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
    row("28 layers", rows, kModelLayers * layer_bytes, layers / kLayers * kModelLayers, plain / kLayers * kModelLayers);
  };
  printf("%s, weights read from memory in every replay: bf16\n", device.name);
  const double plain_head = bench.Microseconds([&] { ReadPlainly(bench.stream(), head, kHead.bytes(), sink); });
  for (const int32_t rows : {1, 4, 8}) {
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
