// What sparse_decode selects, on every backend of the build: planes of both forms, ties, winners in awkward places.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/budget.h"
#include "kernels/planes.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

TEST(SparseSelectionTest, SelectsAsASortDoesForEveryNumberOfPlanes) {
  for (int num_planes = 1; num_planes <= kMaxPlanes; ++num_planes) {
    for (const int words : {1, 2, 4, 8}) {
      for (const int32_t top_plane_weight : {AsymmetricTopPlaneWeight(num_planes), 1}) {
        SCOPED_TRACE(::testing::Message() << "J " << num_planes << " W " << words << " top " << top_plane_weight);
        DecodeShape shape;
        shape.num_planes = num_planes;
        shape.top_plane_weight = top_plane_weight;
        shape.hash_words = words;
        shape.group = 1;
        shape.context_len = {777, 1500};
        shape.seed = num_planes * 10 + words;
        DecodeCase test(shape);
        SparseDecodeParams params = test.Sparse();
        ExpectMatchesReference(&test, params);
        params.prefilter = true;
        ExpectMatchesReference(&test, params);
      }
    }
  }
}

// The best `count` of `tokens` by (score descending, index ascending), in ascending order.
template <class Score>
std::vector<int32_t> Best(std::vector<int32_t> tokens, size_t count, const Score& score) {
  std::stable_sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
  tokens.resize(std::min(count, tokens.size()));
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// Planes of the symmetric form select by the number of bits that match, counted query head by query head without them.
TEST(SparseSelectionTest, SelectsByMatchesSummedOverAnyGroup) {
  for (int group = 1; group <= 15; ++group) {
    for (const int words : {1, 2, 4, 8}) {
      if (words != 4 && group % 7 != 1) continue;
      DecodeShape shape;
      shape.symmetric = true;
      shape.group = group;
      shape.hash_words = words;
      shape.context_len = {0, 60, 1400, 333};
      shape.seed = group;
      DecodeCase test(shape);
      for (const bool prefilter : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "G " << group << " W " << words << (prefilter ? " prefilter" : ""));
        SparseDecodeParams params = test.Sparse();
        params.prefilter = prefilter;
        ExpectMatchesReference(&test, params);
        for (const auto& backend : Backends()) {
          test.ClearOutput();
          ASSERT_TRUE(backend->Run(params, test.arena()).ok());
          for (const int32_t row : {2, 3}) {
            const int32_t context_len = shape.context_len[row];
            const size_t num_select = NumSelected(Budget(), context_len);
            std::vector<int32_t> tokens(NumCandidates(Budget(), context_len));
            std::iota(tokens.begin(), tokens.end(), kSinkTokens);
            if (prefilter) {
              tokens = Best(tokens, kPrefilterFactor * num_select,
                            [&](int32_t token) { return test.GroupMatches(row, 1, token, 1); });
            }
            tokens = Best(tokens, num_select, [&](int32_t token) { return test.GroupMatches(row, 1, token, words); });
            tokens.resize(test.Selected(row, 1).size(), -1);
            ASSERT_TRUE(test.Selected(row, 1) == tokens) << backend->name() << " row " << row;
          }
        }
      }
    }
  }
}

TEST(SparseSelectionTest, BreaksTiesByLowestIndex) {
  for (const Codes codes : {Codes::kEqual, Codes::kFewBits}) {
    for (const bool prefilter : {false, true}) {
      DecodeShape shape;
      shape.codes = codes;
      shape.context_len = {150, 2500, 20003};
      DecodeCase test(shape);
      SparseDecodeParams params = test.Sparse();
      params.prefilter = prefilter;
      ExpectMatchesReference(&test, params);
      if (codes != Codes::kEqual) continue;
      const std::vector<int32_t> selected = test.Selected(2, 1);
      for (int32_t i = 0; i < NumSelected(Budget(), 20003); ++i) ASSERT_EQ(selected[i], kSinkTokens + i);
    }
  }
}

// Most tokens of one part of the row are selected, and none of any other.
TEST(SparseSelectionTest, FindsWinnersThatLieTogether) {
  for (const Codes codes : {Codes::kOneRegion, Codes::kLastCandidates, Codes::kEvery33rdPage}) {
    for (const int words : {2, 4}) {
      DecodeShape shape;
      shape.dtype = DType::kBF16;
      shape.codes = codes;
      shape.hash_words = words;
      shape.group = 1;
      shape.context_len = {30000, 4224, 9011, 140};
      shape.max_select = 700;
      DecodeCase test(shape);
      SparseDecodeParams params = test.Sparse();
      if (codes == Codes::kLastCandidates) test.SelectEverywhere(64);
      for (const bool prefilter : {false, true}) {
        SCOPED_TRACE(::testing::Message() << static_cast<int>(codes) << " W " << words << " " << prefilter);
        params.prefilter = prefilter;
        ExpectMatchesReference(&test, params);
      }
      const std::vector<int32_t> selected = test.Selected(0, 0);
      if (codes == Codes::kOneRegion) {
        EXPECT_LE(selected[599] - selected[0], 750);
      }
      if (codes == Codes::kLastCandidates) {
        EXPECT_GE(selected[0], 30000 - kRecentTokens - 80);
      }
      if (codes == Codes::kEvery33rdPage) {
        EXPECT_EQ(selected[0] / kPageTokens % 33, 32);
      }
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
