#include "kernels/cuda/attention.h"
#include "kernels/cuda/launchers.h"

namespace spotlight::kernels::cuda {

size_t AttentionWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                               int32_t head_dim) {
  return PartialBytes(max_rows, num_q_heads, head_dim);
}

int DenseDecode(const DenseDecodeParams& params) {
  LaunchSequence sequence(params.execution.stream);
  for (int32_t first = 0; first < params.num_rows; first += kPassRows) {
    const int64_t offset = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
    AttentionArgs args = {};
    args.dtype = params.dtype;
    args.num_q_heads = params.num_q_heads;
    args.num_kv_heads = params.num_kv_heads;
    args.head_dim = params.head_dim;
    args.softmax_scale = params.softmax_scale;
    args.q = static_cast<const char*>(params.q) + offset;
    args.kv = params.pages.kv;
    args.page_table = params.page_table;
    args.first_row = first;
    args.rows_per_table = params.rows_per_table;
    args.max_pages = params.max_pages;
    args.context_len = params.context_len + first;
    args.out = static_cast<char*>(params.out) + offset;
    args.partials = static_cast<float*>(params.workspace);
    LaunchAttention(args, min(kPassRows, params.num_rows - first), &sequence);
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
