#include "engine/ops/prefill_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/index_select.h>

#include <tuple>

#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

struct AttentionState {
  at::Tensor out;  // [H, T, D]
  at::Tensor lse;  // [H, T] float, natural log
};

// q [H, T, D], k and v [H, S, D].
AttentionState Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal, double scale) {
  AttentionState state;
  if (q.is_cuda()) {
    auto result =
        at::_scaled_dot_product_flash_attention(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0),
                                                /*dropout_p=*/0.0, causal, /*return_debug_mask=*/false, scale);
    state = {std::get<0>(result).squeeze(0), std::get<1>(result).squeeze(0)};
  } else {
    auto result = at::_scaled_dot_product_flash_attention_for_cpu(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0),
                                                                  /*dropout_p=*/0.0, causal, /*attn_mask=*/{}, scale);
    state = {std::get<0>(result).squeeze(0), std::get<1>(result).squeeze(0)};
  }
  return state;
}

}  // namespace

at::Tensor PrefillAttention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& page_table, int64_t context,
                            double softmax_scale) {
  const int64_t tokens = q.size(0), q_heads = q.size(1), head_dim = q.size(2);
  const int64_t kv_heads = kv.size(1), group = q_heads / kv_heads;
  const int64_t past = context - tokens;
  const int64_t num_pages = (context + kernels::kPageTokens - 1) / kernels::kPageTokens;
  // [pages, Hkv, P, 2, D] -> [2, Hkv, pages * P, D]
  const at::Tensor gathered = at::index_select(kv, 0, page_table.narrow(0, 0, num_pages))
                                  .permute({3, 1, 0, 2, 4})
                                  .reshape({2, kv_heads, num_pages * kernels::kPageTokens, head_dim});
  const at::Tensor k = gathered.select(0, 0), v = gathered.select(0, 1);
  const at::Tensor heads_first = q.transpose(0, 1).contiguous();  // [Hq, T, D]

  // Causality is per token, so here each query head needs its own view of K and V; the chunk is short.
  const at::Tensor own_k = k.narrow(1, past, tokens).repeat_interleave(group, 0);
  const at::Tensor own_v = v.narrow(1, past, tokens).repeat_interleave(group, 0);
  const AttentionState own = Attend(heads_first, own_k, own_v, /*causal=*/true, softmax_scale);
  if (past == 0) return own.out.transpose(0, 1);

  // Without a mask a group's queries are just more queries of the same head.
  const AttentionState before = Attend(heads_first.view({kv_heads, group * tokens, head_dim}), k.narrow(1, 0, past),
                                       v.narrow(1, 0, past), /*causal=*/false, softmax_scale);
  const at::Tensor before_out = before.out.reshape({q_heads, tokens, head_dim});
  const at::Tensor before_lse = before.lse.reshape({q_heads, tokens});
  // Shares of the two parts: softmax over their log-sum-exps.
  const at::Tensor own_share = (own.lse - before_lse).sigmoid().unsqueeze(-1);
  return (own.out * own_share + before_out * (1 - own_share)).to(q.scalar_type()).transpose(0, 1);
}

}  // namespace spotlight::engine
