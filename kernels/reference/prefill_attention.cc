#include "kernels/reference/prefill_attention.h"

#include <numeric>
#include <vector>

#include "kernels/numeric.h"
#include "kernels/reference/attention.h"

namespace spotlight::kernels::reference {

void PrefillAttention(const PrefillAttentionParams& params) {
  const int32_t group = params.num_q_heads / params.num_kv_heads;
  for (int64_t t = 0; t < params.num_tokens; ++t) {
    std::vector<int32_t> tokens(params.context_len - params.num_tokens + t + 1);
    std::iota(tokens.begin(), tokens.end(), 0);
    for (int32_t head = 0; head < params.num_q_heads; ++head) {
      const int64_t begin = (t * params.num_q_heads + head) * params.head_dim;
      const HeadQuery query{params.q,     begin,           params.dtype,        params.num_kv_heads,
                            head / group, params.head_dim, params.softmax_scale};
      const std::vector<double> out = Attend(query, params.pages, params.page_table, tokens);
      for (int32_t d = 0; d < params.head_dim; ++d) {
        StoreElement(static_cast<float>(out[d]), params.out, params.dtype, begin + d);
      }
    }
  }
}

}  // namespace spotlight::kernels::reference
