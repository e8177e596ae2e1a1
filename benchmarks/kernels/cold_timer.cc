#include "benchmarks/kernels/cold_timer.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>

#include <memory>
#include <string>

#include "benchmarks/kernels/device_kernels.h"
#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/median.h"

namespace spotlight::benchmarks {
namespace {

constexpr int64_t kFlushBytes = int64_t{256} << 20;
constexpr int64_t kLongestSpinNs = 20'000'000;

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Fail(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

ColdTimer::ColdTimer(int num_samples) : num_samples_(num_samples), stream_(at::cuda::getCurrentCUDAStream()) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  if (kFlushBytes < 2 * int64_t{properties.l2CacheSize}) Fail("the L2 is too large for the buffer that empties it");
  flush_ = at::zeros({2, kFlushBytes}, at::device(at::kCUDA).dtype(at::kByte));
  sink_ = at::zeros({1}, at::device(at::kCUDA).dtype(at::kInt));
  Check(cudaEventCreate(&begin_), "cudaEventCreate");
  Check(cudaEventCreate(&end_), "cudaEventCreate");
}

ColdTimer::~ColdTimer() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

double ColdTimer::SampleUs(const Operation& enqueue) {
  for (;; spin_ns_ *= 2) {
    if (spin_ns_ > kLongestSpinNs) Fail("an operation waits for the device while it is enqueued");
    Check(cudaMemsetAsync(flush_.data_ptr(), 0, kFlushBytes, stream_), "cudaMemsetAsync");
    ReadThroughL2(stream_, flush_[1].data_ptr(), kFlushBytes, reinterpret_cast<uint32_t*>(sink_.data_ptr()));
    Spin(stream_, spin_ns_);
    Check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    enqueue();
    Check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    const bool hidden = cudaEventQuery(begin_) == cudaErrorNotReady;
    cudaGetLastError();  // "not ready" is an answer
    Check(cudaEventSynchronize(end_), "an operation");
    if (!hidden) continue;
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * milliseconds;
  }
}

std::vector<Timing> ColdTimer::Measure(const std::vector<Operation>& operations) {
  std::vector<std::unique_ptr<at::cuda::CUDAGraph>> graphs;
  std::vector<Operation> variants;  // of operation i: 2 i direct, 2 i + 1 the graph
  for (const Operation& operation : operations) {
    for (int i = 0; i < 2; ++i) operation();
    Check(cudaStreamSynchronize(stream_), "an operation");
    graphs.push_back(std::make_unique<at::cuda::CUDAGraph>());
    graphs.back()->capture_begin();
    operation();
    graphs.back()->capture_end();
    // Not replay(), which may enqueue more than the graph.
    const cudaGraphExec_t executable = graphs.back()->raw_cuda_graph_exec();
    const Operation replay = [this, executable] { Check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch"); };
    replay();
    Check(cudaStreamSynchronize(stream_), "an operation in a CUDA graph");
    variants.push_back(operation);
    variants.push_back(replay);
  }
  std::vector<std::vector<double>> samples(variants.size());
  for (int i = 0; i < num_samples_; ++i) {
    for (size_t v = 0; v < variants.size(); ++v) samples[v].push_back(SampleUs(variants[v]));
  }
  std::vector<Timing> timings;
  for (size_t i = 0; i < operations.size(); ++i)
    timings.push_back({Median(samples[2 * i]), Median(samples[2 * i + 1])});
  return timings;
}

}  // namespace spotlight::benchmarks
