#include "benchmarks/kernels/decode_skeleton.h"

#include <ATen/cuda/CUDAContext.h>

#include "benchmarks/kernels/failure.h"
#include "kernels/layout.h"

namespace spotlight::benchmarks {

DecodeSkeleton::DecodeSkeleton(DecodeStep* step) : step_(*step) {
  const int64_t rows = step->num_rows(), heads = step->layer().shape().num_kv_heads, context = step->context_len();
  if (2 * 2 * step->layer().shape().head_dim != kSkeletonTokenBytes ||
      kernels::kPageTokens * 4 * DeviceLayer::kHashWords != kSkeletonPieceBytes) {
    Fail("the skeleton reads tokens of D 128 in bf16 and codes of 128 bits");
  }
  // The selected, the sinks and the recent tokens of each row and head [B, Hkv, K].
  const at::Tensor chosen = step->SparseAttentionSelecting(false).to(at::kLong);
  const auto constant = [&](int64_t begin, int64_t end) {
    return at::arange(begin, end, chosen.options()).expand({rows, heads, end - begin});
  };
  const at::Tensor attended =
      at::cat({constant(0, kernels::kSinkTokens), chosen, constant(context - kernels::kRecentTokens, context)}, 2);
  // A page's piece of a head, and a token of it, are numbered [page, head] and [page, head, token].
  const at::Tensor table = step->page_table().to(at::kLong);  // [B, pages]
  const at::Tensor head = at::arange(heads, chosen.options());
  const at::Tensor pieces = table.unsqueeze(1) * heads + head.view({1, heads, 1});
  const at::Tensor page = at::div(attended, kernels::kPageTokens, "floor");
  const at::Tensor tokens = pieces.gather(2, page) * kernels::kPageTokens + attended % kernels::kPageTokens;
  const auto by_head = [heads](const at::Tensor& numbers) {  // [B, Hkv, n] -> [Hkv, B n]
    return numbers.transpose(0, 1).reshape({heads, -1}).to(at::kInt).contiguous();
  };
  pieces_ = by_head(pieces);
  tokens_ = by_head(tokens);
  scratch_ = at::zeros({static_cast<int64_t>(SkeletonScratchBytes(static_cast<int32_t>(heads)))},
                       chosen.options().dtype(at::kByte));
  work_.codes = step->layer().codes().data_ptr();
  work_.kv = step->layer().kv().data_ptr();
  work_.pieces = pieces_.data_ptr<int32_t>();
  work_.tokens = tokens_.data_ptr<int32_t>();
  work_.num_heads = static_cast<int32_t>(heads);
  work_.num_pieces = static_cast<int32_t>(pieces_.size(1));
  work_.num_tokens = static_cast<int32_t>(tokens_.size(1));
  work_.scratch = scratch_.data_ptr();
}

void DecodeSkeleton::Run(int parts) {
  LaunchSkeleton(at::cuda::getCurrentCUDAStream().stream(), work_, parts, /*overlap_previous=*/false);
}

void DecodeSkeleton::RunBesideEncode() {
  step_.Encode();
  LaunchSkeleton(at::cuda::getCurrentCUDAStream().stream(), work_, kWholeSkeleton, /*overlap_previous=*/true);
}

size_t DecodeSkeleton::Bytes(int parts) const {
  return (parts & kReadCodes ? pieces_.numel() * kSkeletonPieceBytes : 0) +
         (parts & kReadTokens ? tokens_.numel() * kSkeletonTokenBytes : 0);
}

}  // namespace spotlight::benchmarks
