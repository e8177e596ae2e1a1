#include "kernels/cpu/dense_decode.h"

#include <vector>

#include "kernels/cpu/attention.h"

namespace spotlight::kernels::cpu {

void DenseDecode(const DenseDecodeParams& params, Level level) {
  static thread_local std::vector<AttentionRow> row_heads;
  row_heads.clear();
  for (int64_t row = 0; row < params.num_rows; ++row) {
    AttentionRow attention_row;
    attention_row.page_table = params.page_table + row / params.rows_per_table * params.max_pages;
    attention_row.tokens = AllTokens(params.context_len[row]);
    row_heads.insert(row_heads.end(), params.num_kv_heads, attention_row);
  }
  const AttentionShape shape{params.dtype, params.num_q_heads, params.num_kv_heads, params.head_dim,
                             params.softmax_scale};
  AttendRows(params.execution, KernelsOf(level), shape, params.q, params.pages, row_heads.data(), params.num_rows,
             params.out);
}

}  // namespace spotlight::kernels::cpu
