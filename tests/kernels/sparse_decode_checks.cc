#include "tests/kernels/sparse_decode_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/reference/sparse_decode.h"

namespace spotlight::kernels::testing {

SparseResult ResultOf(const DecodeCase& test) {
  SparseResult result;
  for (int32_t row = 0; row < test.num_rows(); ++row) {
    result.output.push_back(test.OutputBytes(row));
    for (int32_t head = 0; head < test.shape().num_kv_heads; ++head) {
      result.selected.push_back(test.Selected(row, head));
      result.num_selected.push_back(test.NumSelected(row, head));
    }
  }
  return result;
}

void ExpectCloseByHead(const DecodeCase& test, const std::vector<float>& output, const std::vector<float>& expected) {
  const int32_t dim = test.shape().head_dim, heads = test.shape().num_kv_heads * test.shape().group;
  ASSERT_EQ(output.size(), expected.size());
  for (size_t begin = 0; begin < expected.size(); begin += dim) {
    const std::vector<float> a(&output[begin], &output[begin] + dim), b(&expected[begin], &expected[begin] + dim);
    const auto is_nan = [](float x) { return std::isnan(x); };
    if (std::all_of(b.begin(), b.end(), is_nan)) {  // no row of the call: stays as it was
      ASSERT_TRUE(std::all_of(a.begin(), a.end(), is_nan)) << "row " << begin / dim / heads;
      continue;
    }
    ASSERT_LE(RelativeNorm(a, b), Tolerance(test.shape().dtype))
        << "row " << begin / dim / heads << " head " << begin / dim % heads;
  }
}

void ExpectMatchesReference(DecodeCase* test, const SparseDecodeParams& params) {
  test->ClearOutput();
  reference::SparseDecode(params);
  const std::vector<float> expected = test->Output();
  const SparseResult reference = ResultOf(*test);
  const int32_t heads = test->shape().num_kv_heads;
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test->ClearOutput();
    const ArenaCopy before(*test->arena());
    const absl::Status status = backend->Run(params, test->arena());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(test->OnlyOutputsChanged(before));
    ExpectCloseByHead(*test, test->Output(), expected);
    const SparseResult result = ResultOf(*test);
    EXPECT_EQ(result.num_selected, reference.num_selected);
    for (size_t i = 0; i < result.selected.size(); ++i) {
      ASSERT_TRUE(result.selected[i] == reference.selected[i]) << "row " << i / heads << " head " << i % heads;
    }
  }
}

SparseDecodeParams RowsOf(SparseDecodeParams params, int32_t first, int32_t count) {
  const int64_t row_heads = int64_t{first} * params.num_kv_heads;
  const int64_t offset = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
  params.num_rows = count;
  params.q = static_cast<const char*>(params.q) + offset;
  params.out = static_cast<char*>(params.out) + offset;
  params.planes += row_heads * params.num_planes * params.hash_words;
  params.page_table += int64_t{first} * params.max_pages;
  params.context_len += first;
  params.num_select += first;
  if (params.selected != nullptr) params.selected += row_heads * params.max_select;
  if (params.num_selected != nullptr) params.num_selected += row_heads;
  return params;
}

}  // namespace spotlight::kernels::testing
