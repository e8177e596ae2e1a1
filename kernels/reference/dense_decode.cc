#include "kernels/reference/dense_decode.h"

#include <numeric>
#include <vector>

#include "kernels/numeric.h"
#include "kernels/reference/attention.h"

namespace spotlight::kernels::reference {

void DenseDecode(const DenseDecodeParams& params) {
  const int32_t group = params.num_q_heads / params.num_kv_heads;
  for (int64_t row = 0; row < params.num_rows; ++row) {
    const int32_t* page_table = params.page_table + row / params.rows_per_table * params.max_pages;
    std::vector<int32_t> tokens(params.context_len[row]);
    std::iota(tokens.begin(), tokens.end(), 0);
    for (int32_t head = 0; head < params.num_q_heads; ++head) {
      const int64_t begin = (row * params.num_q_heads + head) * params.head_dim;
      const HeadQuery query{params.q,     begin,           params.dtype,        params.num_kv_heads,
                            head / group, params.head_dim, params.softmax_scale};
      const std::vector<double> out = Attend(query, params.pages, page_table, tokens);
      for (int32_t d = 0; d < params.head_dim; ++d) {
        StoreElement(static_cast<float>(out[d]), params.out, params.dtype, begin + d);
      }
    }
  }
}

}  // namespace spotlight::kernels::reference
