#include "kernels/cuda/clock.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/launchers.h"

namespace spotlight::kernels::cuda {
namespace {

// The tokens from `first` on. Planes belong to earlier ones.
EncodeAndAppendParams TokensFrom(EncodeAndAppendParams params, int64_t first) {
  const auto size = static_cast<int64_t>(SizeOf(params.dtype));
  params.q = static_cast<const char*>(params.q) + first * params.q_stride * size;
  params.k = static_cast<const char*>(params.k) + first * params.k_stride * size;
  params.v = static_cast<const char*>(params.v) + first * params.v_stride * size;
  params.q_out = static_cast<char*>(params.q_out) + first * params.num_q_heads * params.head_dim * size;
  params.positions += first;
  params.slots += first;
  params.num_tokens -= static_cast<int32_t>(first);
  params.num_plane_tokens = 0;
  return params;
}

// EncodeDecode writes the time itself. Elsewhere several kernels may begin at once.
__global__ void WriteTime(uint64_t* now_ns) {
  *now_ns = Nanoseconds();
}

void MarkStart(const EncodeAndAppendParams& params, LaunchSequence* sequence) {
  if (params.start_ns != nullptr) sequence->Launch(WriteTime, dim3(1), dim3(1), 0, params.start_ns);
}

}  // namespace

int EncodeAndAppend(const EncodeAndAppendParams& params) {
  LaunchSequence sequence(params.execution.stream);
  if (params.hash == nullptr || !EncodeKeysSupported(params)) {
    MarkStart(params, &sequence);
    RotateAndAppend(params, /*beside_keys=*/false, &sequence);
    if (params.hash != nullptr) EncodePlain(params, /*with_keys=*/true, &sequence);
    return sequence.error();
  }
  const bool in_clusters = EncodeDecodeSupported(params);
  if (in_clusters) {
    EncodeDecode(params, &sequence);
  } else {
    MarkStart(params, &sequence);
  }
  const EncodeAndAppendParams rest = TokensFrom(params, in_clusters ? params.num_plane_tokens : 0);
  if (rest.num_tokens > 0) {
    EncodeKeys(rest, &sequence);
    RotateAndAppend(rest, /*beside_keys=*/true, &sequence);
  }
  if (!in_clusters && params.num_plane_tokens > 0) EncodePlain(params, /*with_keys=*/false, &sequence);
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
