#include "engine/ops/prefill_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/stack.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/ops/execution.h"
#include "engine/ops/tensor.h"
#include "engine/page_pool.h"
#include "kernels/layout.h"
#include "kernels/prefill_parts.h"

namespace spotlight::engine {
namespace {

using kernels::kMaxAttentionParts;
using kernels::kPageTokens;

constexpr int kCudnnMinMajor = 9;  // Before Hopper flash attention is as fast.

// What queries [T, Hq, D] found in a part of the keys.
struct Attended {
  at::Tensor out;  // [T, Hq, D]
  at::Tensor lse;  // [Hq, T] float, natural log
};

// Keys and values [Hkv, S, D].
struct KeysAndValues {
  at::Tensor keys, values;
};

// [1, Hq, T, D] without a copy: what LibTorch's attention takes.
at::Tensor HeadsFirst(const at::Tensor& q) {
  return q.unsqueeze(0).transpose(1, 2);
}

Attended TokensFirst(const at::Tensor& out, const at::Tensor& lse) {
  return {out.squeeze(0).transpose(0, 1).contiguous(), lse.reshape({out.size(1), out.size(2)})};
}

// A layer's pages, and what keys and values are gathered as.
struct CachedLayer {
  const at::Tensor &kv, &kv_scale, &page_table;
  at::ScalarType dtype;
};

// Pages [first, first + count) of the table, of an array [pages, ...]. Types that are only for storage cannot be
// indexed.
at::Tensor PagesOf(const CachedLayer& cache, const at::Tensor& array, int64_t first, int64_t count) {
  const at::Tensor table = cache.page_table.narrow(0, first, count);
  if (array.scalar_type() != at::kFloat8_e4m3fn) return at::index_select(array, 0, table);
  return at::index_select(array.view(at::kByte), 0, table).view(at::kFloat8_e4m3fn);
}

at::Tensor GatherOnCpu(const CachedLayer& cache, const PrefillPiece::Keys& range) {
  const int64_t first = range.begin / kPageTokens;
  const int64_t pages = PagesFor(range.end) - first;
  at::Tensor kv = PagesOf(cache, cache.kv, first, pages);
  if (cache.kv_scale.defined()) {
    const at::Tensor scale = PagesOf(cache, cache.kv_scale, first, pages);
    kv = kv.to(at::kFloat).mul_(scale.unsqueeze(-1)).to(cache.dtype);
  }
  // [pages, Hkv, P, 2, D] -> [2, Hkv, pages * P, D]
  return kv.permute({3, 1, 0, 2, 4})
      .reshape({2, kv.size(1), pages * kPageTokens, kv.size(4)})
      .narrow(2, range.begin - first * kPageTokens, range.end - range.begin);
}

absl::StatusOr<KeysAndValues> Gather(const CachedLayer& cache, const PrefillPiece::Keys& range) {
  const at::Tensor& kv = cache.kv;
  if (!kv.is_cuda()) {
    const at::Tensor both = GatherOnCpu(cache, range);
    return KeysAndValues{both.select(0, 0), both.select(0, 1)};
  }
  const at::Tensor both =
      at::empty({2, kv.size(1), range.end - range.begin, kv.size(4)}, kv.options().dtype(cache.dtype));
  const KeysAndValues gathered{both.select(0, 0), both.select(0, 1)};
  kernels::GatherPagesParams params;
  params.execution = ExecutionOn(kv.device());
  params.dtype = ToKernelDType(cache.dtype);
  params.num_kv_heads = static_cast<int32_t>(kv.size(1));
  params.head_dim = static_cast<int32_t>(kv.size(4));
  params.begin = static_cast<int32_t>(range.begin);
  params.end = static_cast<int32_t>(range.end);
  params.pages.kv = kv.data_ptr();
  params.pages.num_pages = static_cast<int32_t>(kv.size(0));
  if (cache.kv_scale.defined()) params.pages.kv_scale = cache.kv_scale.data_ptr<float>();
  params.page_table = cache.page_table.data_ptr<int32_t>();
  params.keys = gathered.keys.data_ptr();
  params.values = gathered.values.data_ptr();
  if (auto status = kernels::GatherPages(params); !status.ok()) return status;
  return gathered;
}

absl::Status Merge(const std::vector<Attended>& parts, const at::Tensor& out, const at::Tensor& lse) {
  if (!out.is_cuda()) {
    std::vector<at::Tensor> outs, lses;
    for (const Attended& part : parts) {
      outs.push_back(part.out.to(at::kFloat));
      lses.push_back(part.lse);
    }
    const at::Tensor all = at::stack(lses);  // [parts, Hq, T]
    const at::Tensor merged = at::logsumexp(all, 0);
    const at::Tensor weights = (all - merged).exp().transpose(1, 2).unsqueeze(-1);
    out.copy_((at::stack(outs) * weights).sum(0));
    if (lse.defined()) lse.copy_(merged);
    return absl::OkStatus();
  }
  kernels::MergeAttentionParams params;
  params.execution = ExecutionOn(out.device());
  params.dtype = ToKernelDType(out.scalar_type());
  params.num_tokens = static_cast<int32_t>(out.size(0));
  params.num_q_heads = static_cast<int32_t>(out.size(1));
  params.head_dim = static_cast<int32_t>(out.size(2));
  params.num_parts = static_cast<int32_t>(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    params.parts[i] = {parts[i].out.data_ptr(), parts[i].lse.const_data_ptr<float>()};
  }
  params.out = out.data_ptr();
  params.lse = lse.defined() ? lse.data_ptr<float>() : nullptr;
  return kernels::MergeAttention(params);
}

// Causal parts end where the queries do.
class Attention {
 public:
  Attention(int64_t group, double scale, const PrefillBlocks& blocks) : group_(group), scale_(scale), blocks_(blocks) {}

  Attended operator()(const at::Tensor& q, const KeysAndValues& kv, bool causal) const {
    if (!q.is_cuda()) return OnCpu(q, kv, causal);
    const at::Tensor heads = HeadsFirst(q), keys = kv.keys.unsqueeze(0), values = kv.values.unsqueeze(0);
    if (HasCudnn(q.device()) && blocks_.IsBlock(q.size(0), kv.keys.size(1))) {
      const auto result =
          at::_scaled_dot_product_cudnn_attention(heads, keys, values, std::nullopt, /*compute_log_sumexp=*/true,
                                                  /*dropout_p=*/0.0, causal, /*return_debug_mask=*/false, scale_);
      return TokensFirst(std::get<0>(result), std::get<1>(result));
    }
    if (!causal) return Packed(q, kv);
    const auto result = at::_scaled_dot_product_flash_attention(heads, keys, values, /*dropout_p=*/0.0,
                                                                /*is_causal=*/true,
                                                                /*return_debug_mask=*/false, scale_);
    return TokensFirst(std::get<0>(result), std::get<1>(result));
  }

 private:
  // Without a mask the queries of a group are rows of their KV head: a few tokens' fill flash attention's blocks of 64
  // rows, and it cuts the keys so that they fill the device.
  Attended Packed(const at::Tensor& q, const KeysAndValues& kv) const {
    const int64_t tokens = q.size(0), kv_heads = kv.keys.size(0), head_dim = q.size(2);
    const at::Tensor rows = q.view({tokens, kv_heads, group_, head_dim})
                                .permute({1, 2, 0, 3})
                                .reshape({1, kv_heads, group_ * tokens, head_dim});
    const auto result = at::_scaled_dot_product_flash_attention(rows, kv.keys.unsqueeze(0), kv.values.unsqueeze(0),
                                                                /*dropout_p=*/0.0, /*is_causal=*/false,
                                                                /*return_debug_mask=*/false, scale_);
    // [1, Hkv, G * T, D] -> [T, Hq, D]
    const at::Tensor out = std::get<0>(result)
                               .reshape({kv_heads, group_, tokens, head_dim})
                               .permute({2, 0, 1, 3})
                               .reshape(q.sizes())
                               .contiguous();
    return {out, std::get<1>(result).reshape({q.size(1), tokens})};
  }

  static bool HasCudnn(at::Device device) {
    int major = 0;
    return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()) == cudaSuccess &&
           major >= kCudnnMinMajor;
  }

  // There each query head needs its own view of keys and values, and causality begins at the first key.
  Attended OnCpu(const at::Tensor& q, const KeysAndValues& kv, bool causal) const {
    const int64_t past = kv.keys.size(1) - q.size(0);
    if (causal && past > 0) {
      const auto part = [&](int64_t begin, int64_t count) {
        return KeysAndValues{kv.keys.narrow(1, begin, count), kv.values.narrow(1, begin, count)};
      };
      const std::vector<Attended> parts = {OnCpu(q, part(0, past), false), OnCpu(q, part(past, q.size(0)), true)};
      Attended merged = parts.back();
      merged.out = at::empty(q.sizes(), q.options());
      (void)Merge(parts, merged.out, merged.lse);  // tensors on the CPU: nothing to fail
      return merged;
    }
    const auto result = at::_scaled_dot_product_flash_attention_for_cpu(
        HeadsFirst(q), kv.keys.repeat_interleave(group_, 0).unsqueeze(0),
        kv.values.repeat_interleave(group_, 0).unsqueeze(0), /*dropout_p=*/0.0, causal, /*attn_mask=*/{}, scale_);
    return TokensFirst(std::get<0>(result), std::get<1>(result));
  }

  const int64_t group_;
  const double scale_;
  const PrefillBlocks& blocks_;
};

}  // namespace

absl::Status PrefillAttention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& kv_scale,
                              const at::Tensor& page_table, int64_t context, double softmax_scale,
                              const PrefillBlocks& blocks, const at::Tensor& out) {
  const CachedLayer cache{kv, kv_scale, page_table, q.scalar_type()};
  const int64_t past = context - q.size(0);
  const Attention attend(q.size(1) / kv.size(1), softmax_scale, blocks);
  for (const PrefillPiece& piece : SplitPrefill(past, context, blocks)) {
    const at::Tensor piece_q = q.narrow(0, piece.begin - past, piece.end - piece.begin);
    const at::Tensor piece_out = out.narrow(0, piece.begin - past, piece.end - piece.begin);
    std::vector<Attended> parts;
    for (const PrefillPiece::Keys& range : piece.parts) {
      if (parts.size() == kMaxAttentionParts) {
        Attended so_far = parts.front();
        if (auto status = Merge(parts, so_far.out, so_far.lse); !status.ok()) return status;
        parts = {std::move(so_far)};
      }
      auto gathered = Gather(cache, range);
      if (!gathered.ok()) return gathered.status();
      parts.push_back(attend(piece_q, *gathered, /*causal=*/range.end == piece.end));
    }
    if (parts.size() == 1) {
      piece_out.copy_(parts.front().out);
    } else if (auto status = Merge(parts, piece_out, at::Tensor()); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

int64_t PrefillAttentionBytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int64_t tokens,
                              int64_t max_context, const PrefillBlocks& blocks) {
  constexpr int64_t kElement = 2;
  // Flash attention's own results where it cuts the keys: blocks of 64 rows, about two for each multiprocessor, in
  // fp32.
  constexpr int64_t kCutRows = 64 * 512;
  const int64_t keys = std::min(max_context, blocks.max_keys);
  const int64_t queries = std::min(tokens, blocks.max_queries);
  const int64_t part = int64_t{num_q_heads} * (head_dim * kElement + static_cast<int64_t>(sizeof(float)));
  return 2 * num_kv_heads * head_dim * kElement * keys + (kMaxAttentionParts + 1) * part * queries +
         kCutRows * (head_dim + 1) * static_cast<int64_t>(sizeof(float));
}

}  // namespace spotlight::engine
