#include "kernels/sample.h"

#include "kernels/cuda/sample.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

void OnCuda(const Execution& execution, Validation* check) {
  check->That(execution.device == DeviceKind::kCuda, "execution.device", static_cast<int64_t>(execution.device),
              "CUDA");
}

}  // namespace

size_t SampleWorkspaceBytes(int32_t max_rows, int32_t vocab_size) {
  return cuda::SampleWorkspaceBytes(max_rows, vocab_size);
}

absl::Status Sample(const SampleParams& params) {
  Validation check("Sample");
  check.Device(params.execution, params.dtype);
  OnCuda(params.execution, &check);
  check.InRange("num_rows", params.num_rows, 1, INT32_MAX / 8);
  check.InRange("vocab_size", params.vocab_size, 1, 1 << 20);
  check.Aligned("logits", params.logits, kVectorBytes);
  check.Array("rows", params.rows);
  check.Array("out", params.out);
  if (!check.ok()) return check.status();
  const size_t workspace = cuda::SampleWorkspaceBytes(params.num_rows, params.vocab_size);
  if (workspace > 0) check.Workspace(params.workspace, params.workspace_bytes, workspace);
  if (!check.ok()) return check.status();
  return CudaStatus("Sample", cuda::Sample(params));
}

absl::Status CountTokens(const CountTokensParams& params) {
  Validation check("CountTokens");
  OnCuda(params.execution, &check);
  check.InRange("vocab_size", params.vocab_size, 1, 1 << 20);
  check.InRange("num_prompt", params.num_prompt, 0, INT32_MAX);
  check.InRange("num_generated", params.num_generated, 0, INT32_MAX - params.num_prompt);
  check.Array("counts", params.counts);
  if (params.num_prompt + params.num_generated > 0) check.Array("token_ids", params.token_ids);
  if (!check.ok()) return check.status();
  return CudaStatus("CountTokens", cuda::CountTokens(params));
}

absl::Status FeedTokens(const FeedTokensParams& params) {
  Validation check("FeedTokens");
  OnCuda(params.execution, &check);
  check.InRange("num_tokens", params.num_tokens, 1, INT32_MAX);
  check.Array("token_ids", params.token_ids);
  check.Array("sampled", params.sampled);
  if (!check.ok()) return check.status();
  return CudaStatus("FeedTokens", cuda::FeedTokens(params));
}

}  // namespace spotlight::kernels
