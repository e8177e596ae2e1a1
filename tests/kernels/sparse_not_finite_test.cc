// sparse_decode where a cache in e4m3 holds a key or a value that is not finite: such a row reads as NaN.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels/numeric.h"
#include "kernels/reference/sparse_decode.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

// A token's key (side 0) or value (1) is stored as one with an infinity, for as long as this lives.
class NotFinite {
 public:
  NotFinite(const SparseDecodeParams& params, int32_t row, int32_t kv_head, int32_t token, int side) {
    const int64_t page = params.page_table[int64_t{row} * params.max_pages + token / kPageTokens];
    const int64_t entry = (page * params.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
    elements_ = static_cast<char*>(params.pages.kv) + (2 * entry + side) * params.head_dim;
    scale_ = params.pages.kv_scale + 2 * entry + side;
    elements_before_.assign(elements_, elements_ + params.head_dim);
    scale_before_ = *scale_;
    std::vector<float> x(params.head_dim, 1.0f);
    x[params.head_dim / 2] = std::numeric_limits<float>::infinity();
    RoundToE4m3(params.dtype, x, elements_, scale_);
  }
  ~NotFinite() {
    std::copy(elements_before_.begin(), elements_before_.end(), elements_);
    *scale_ = scale_before_;
  }
  NotFinite(const NotFinite&) = delete;
  NotFinite& operator=(const NotFinite&) = delete;

 private:
  char* elements_;
  float* scale_;
  std::vector<char> elements_before_;
  float scale_before_;
};

// Whether a row's heads of a KV head attend to a token, by what the last run selected.
bool Attends(const DecodeCase& test, int32_t row, int32_t kv_head, int32_t token) {
  const int32_t length = test.shape().context_len[row];
  if (token >= length) return false;
  if (token < kSinkTokens || token >= length - kRecentTokens) return true;
  const std::vector<int32_t> selected = test.Selected(row, kv_head);
  return test.NumSelected(row, kv_head) == 0 || std::count(selected.begin(), selected.end(), token) > 0;
}

class SparseNotFiniteTest : public ::testing::TestWithParam<std::tuple<DType, int, int, bool>> {};

// The heads that attend to the token give NaN. The others keep their bits, and every row its selection.
TEST_P(SparseNotFiniteTest, IsNaNForThoseThatAttendToIt) {
  DecodeShape shape;
  bool prefilter = false;
  std::tie(shape.dtype, shape.group, shape.head_dim, prefilter) = GetParam();
  if (!HasE4m3Pages(*Backends().front(), shape.dtype)) GTEST_SKIP() << "only the CPU has e4m3 pages beside fp32";
  shape.e4m3_pages = true;
  shape.shared_pages = true;
  shape.context_len = {5000, 2100, 2100, 300, 64, 0};
  DecodeCase test(shape);
  SparseDecodeParams params = test.Sparse();
  params.prefilter = prefilter;
  constexpr int32_t kDenseRow = 2, kHead = 1;
  const_cast<int32_t*>(params.num_select)[kDenseRow] = 0;

  reference::SparseDecode(params);
  std::vector<int32_t> selected = test.Selected(0, kHead);
  selected.resize(test.NumSelected(0, kHead));
  ASSERT_EQ(selected.size(), 100u);
  int32_t left_out = kSinkTokens;
  while (std::count(selected.begin(), selected.end(), left_out) > 0) ++left_out;
  // A sink, candidates of row 0, the newest tokens of rows 0, 1 and 2, and 4.
  const std::vector<int32_t> tokens = {kSinkTokens - 1, selected[0], selected[50], selected[99],
                                       left_out,        4999,        2099,         63};

  const auto check = [&](const std::function<absl::Status()>& run) {
    test.ClearOutput();
    ASSERT_TRUE(run().ok());
    const SparseResult usual = ResultOf(test);
    ASSERT_TRUE(Attends(test, 0, kHead, selected[50]));
    ASSERT_FALSE(Attends(test, 0, kHead, left_out));
    for (const int32_t token : tokens) {
      for (const int side : {0, 1}) {
        SCOPED_TRACE(::testing::Message() << (side == 0 ? "key" : "value") << " of token " << token);
        const NotFinite not_finite(params, 0, kHead, token, side);
        test.ClearOutput();
        ASSERT_TRUE(run().ok());
        const SparseResult result = ResultOf(test);
        EXPECT_EQ(result.selected, usual.selected);
        EXPECT_EQ(result.num_selected, usual.num_selected);
        for (int32_t row = 0; row < test.num_rows(); ++row) {
          const bool attends = Attends(test, row, kHead, token);
          const auto bytes_of_head = static_cast<int32_t>(shape.head_dim * SizeOf(shape.dtype));
          for (int32_t head = 0; head < params.num_q_heads; ++head) {
            SCOPED_TRACE(::testing::Message() << "row " << row << " head " << head);
            const auto begin = result.output[row].begin() + head * bytes_of_head;
            if (!attends || head / shape.group != kHead) {
              ASSERT_TRUE(std::equal(begin, begin + bytes_of_head, usual.output[row].begin() + head * bytes_of_head));
              continue;
            }
            for (int32_t d = 0; d < shape.head_dim; ++d) {
              ASSERT_TRUE(std::isnan(LoadElement(&*begin, shape.dtype, d))) << d;
            }
          }
        }
      }
    }
  };
  {
    SCOPED_TRACE("reference");
    check([&] {
      reference::SparseDecode(params);
      return absl::OkStatus();
    });
  }
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    check([&] { return backend->Run(params, test.arena()); });
  }
}

INSTANTIATE_TEST_SUITE_P(Bf16, SparseNotFiniteTest,
                         ::testing::Combine(::testing::Values(DType::kBF16), ::testing::Values(1, 3, 7, 16),
                                            ::testing::Values(64, 128), ::testing::Bool()));
INSTANTIATE_TEST_SUITE_P(F32, SparseNotFiniteTest,
                         ::testing::Combine(::testing::Values(DType::kF32), ::testing::Values(3),
                                            ::testing::Values(64, 128), ::testing::Bool()));

}  // namespace
}  // namespace spotlight::kernels::testing
