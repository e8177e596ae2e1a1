// Attention of a short piece of a prompt in Qwen2.5-7B's shape, pages read in place, beside what longer pieces have:
// keys gathered for LibTorch's attention (flash, or cuDNN where a piece is a block of its own), in the same run. Longer
// pieces than the kernel takes are several calls, each of which reads the past. Cold L2, medians, launched directly and
// as a CUDA graph. Needs a GPU.
//
//   bazel run //benchmarks/kernels:chunk_attention [-- OUT.json]
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/kernels/cold_timer.h"
#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/rows_file.h"
#include "engine/ops/prefill_attention.h"
#include "kernels/chunk_attention.h"

namespace spotlight::benchmarks {
namespace {

constexpr int32_t kQHeads = 28, kKvHeads = 4, kDim = 128, kSamples = 15;
constexpr int32_t kPasts[] = {8192, 32768, 65536, 131072};
constexpr int32_t kTokens[] = {1, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
constexpr double kBound = 1e-2;  // of the two results' distance, relative: either rounds to bf16

void Run(const char* path) {
  const c10::InferenceMode no_autograd;
  const c10::cuda::CUDAStreamGuard on_stream(at::cuda::getStreamFromPool());
  at::manual_seed(7);
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
  const int64_t pages = (kPasts[std::size(kPasts) - 1] + kTokens[std::size(kTokens) - 1]) / kernels::kPageTokens;
  const at::Tensor kv = at::randn({pages, kKvHeads, kernels::kPageTokens, 2, kDim}, options);
  const at::Tensor table = at::randperm(pages, options.dtype(at::kLong)).to(at::kInt);
  const auto workspace_bytes =
      static_cast<int64_t>(kernels::ChunkAttentionWorkspaceBytes(kernels::kMaxChunkQueries, kQHeads, kKvHeads, kDim));
  const at::Tensor workspace = at::empty({workspace_bytes}, options.dtype(at::kByte));
  const double scale = 1 / std::sqrt(static_cast<double>(kDim));
  ColdTimer timer(kSamples);
  std::vector<std::string> rows;
  printf("   past tokens |       us    graph  TFLOPS  GB/s | gathered    graph  ratio\n");
  for (const int32_t past : kPasts) {
    for (const int32_t tokens : kTokens) {
      const at::Tensor q = at::randn({tokens, kQHeads, kDim}, options);
      const at::Tensor lengths = at::arange(past + 1, past + tokens + 1, options.dtype(at::kInt));
      const at::Tensor out = at::empty_like(q), gathered_out = at::empty_like(q);
      kernels::ChunkAttentionParams params;
      params.execution = {kernels::DeviceKind::kCuda, at::cuda::getCurrentCUDAStream().stream(), nullptr};
      params.num_q_heads = kQHeads;
      params.num_kv_heads = kKvHeads;
      params.head_dim = kDim;
      params.softmax_scale = static_cast<float>(scale);
      params.pages.kv = kv.data_ptr();
      params.pages.num_pages = static_cast<int32_t>(pages);
      params.page_table = table.data_ptr<int32_t>();
      params.max_pages = static_cast<int32_t>(pages);
      params.workspace = workspace.data_ptr();
      params.workspace_bytes = workspace_bytes;
      const engine::PrefillBlocks blocks;
      const std::vector<Timing> times = timer.Measure(
          {[&] {
             params.execution.stream = at::cuda::getCurrentCUDAStream().stream();
             for (int32_t begin = 0; begin < tokens; begin += kernels::kMaxChunkQueries) {
               params.num_tokens = std::min(kernels::kMaxChunkQueries, tokens - begin);
               params.q = q[begin].data_ptr();
               params.context_len = lengths.data_ptr<int32_t>() + begin;
               params.out = out[begin].data_ptr();
               Check(kernels::ChunkAttention(params));
             }
           },
           [&] {
             Check(engine::PrefillAttention(q, kv, /*kv_scale=*/{}, table, past + tokens, scale, blocks, gathered_out));
           }});
      const at::Tensor ours = out.to(at::kFloat), theirs = gathered_out.to(at::kFloat);
      const double distance = ((ours - theirs).norm() / theirs.norm()).item<double>();
      if (!(distance < kBound)) Fail(absl::StrCat("results are ", distance, " apart"));
      const double pairs = double{1} * tokens * past + 0.5 * tokens * (tokens + 1.0);
      const double us = times[0].graph_us, tflops = 4e-6 * kQHeads * kDim * pairs / us;
      const double gb_per_s =
          1e-3 * (past + tokens) * kernels::KvBytesPerToken(kKvHeads, kDim, kernels::DType::kBF16) / us;
      printf("%7d %6d | %8.1f %8.1f  %6.1f %5.0f | %8.1f %8.1f  %5.2f\n", past, tokens, times[0].us, us, tflops,
             gb_per_s, times[1].us, times[1].graph_us, times[1].graph_us / us);
      fflush(stdout);
      rows.push_back(absl::StrCat("{\"op\": \"chunk_attention\", \"tokens\": ", tokens, ", \"past\": ", past,
                                  ", \"us\": ", times[0].us, ", \"graph_us\": ", us, ", \"tflops\": ", tflops,
                                  ", \"gb_per_s\": ", gb_per_s, ", \"gathered_us\": ", times[1].us,
                                  ", \"gathered_graph_us\": ", times[1].graph_us, "}"));
    }
  }
  WriteRows(path, rows);
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  spotlight::benchmarks::Run(argc > 1 ? argv[1] : nullptr);
  return 0;
}
