// The layout of a linear layer's weight, by measurement: [out, in], as checkpoints have it and at::linear reads it,
// against [in, out], in Qwen2.5-7B's shape in bf16, for a batch of decode rows that is cuBLAS's and for prompts'
// chunks. Cold L2, medians, as CUDA graphs; the two take turns. Needs a GPU.
//
//   bazel run //benchmarks/kernels:gemm_layouts [-- OUT.json]
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/kernels/cold_timer.h"
#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/rows_file.h"

namespace spotlight::benchmarks {
namespace {

struct Shape {
  const char* name;
  int64_t num_out, num_in;
};

constexpr Shape kShapes[] = {
    {"qkv", 4608, 3584}, {"output", 3584, 3584}, {"gate_up", 37888, 3584}, {"down", 3584, 18944}};
constexpr int64_t kRows[] = {32, 2048, 8192};
constexpr int kSamples = 15;
constexpr double kBound = 1e-2;  // of the two results' distance, relative: either rounds to bf16

void Run(const char* path) {
  const c10::InferenceMode no_autograd;
  const c10::cuda::CUDAStreamGuard on_stream(at::cuda::getStreamFromPool());
  at::manual_seed(7);
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
  ColdTimer timer(kSamples);
  std::vector<std::string> rows;
  printf("layer     rows | [out, in], us  TFLOPS  TB/s | [in, out], us  ratio\n");
  for (const int64_t num_rows : kRows) {
    double sum[2] = {0, 0};
    for (const Shape& shape : kShapes) {
      const at::Tensor weight = at::randn({shape.num_out, shape.num_in}, options);
      const at::Tensor transposed = weight.t().contiguous(), x = at::randn({num_rows, shape.num_in}, options);
      at::Tensor y, other;
      const std::vector<Timing> times =
          timer.Measure({[&] { y = at::linear(x, weight); }, [&] { other = at::mm(x, transposed); }});
      y = at::linear(x, weight).to(at::kFloat);
      const double distance = ((at::mm(x, transposed).to(at::kFloat) - y).norm() / y.norm()).item<double>();
      if (!(distance < kBound)) Fail(absl::StrCat("results are ", distance, " apart"));
      const double us = times[0].graph_us, other_us = times[1].graph_us;
      sum[0] += us;
      sum[1] += other_us;
      const double flops = 2.0 * num_rows * shape.num_out * shape.num_in;
      printf("%-8s %5lld | %13.1f  %6.1f %5.2f | %13.1f  %5.3f\n", shape.name, static_cast<long long>(num_rows), us,
             1e-6 * flops / us, 2e-6 * shape.num_out * shape.num_in / us, other_us, other_us / us);
      rows.push_back(absl::StrCat("{\"op\": \"gemm\", \"layer\": \"", shape.name, "\", \"rows\": ", num_rows,
                                  ", \"out_in_us\": ", us, ", \"in_out_us\": ", other_us, "}"));
    }
    printf("all      %5lld | %13.1f               | %13.1f  %5.3f\n", static_cast<long long>(num_rows), sum[0], sum[1],
           sum[1] / sum[0]);
    fflush(stdout);
  }
  WriteRows(path, rows);
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  spotlight::benchmarks::Run(argc > 1 ? argv[1] : nullptr);
  return 0;
}
