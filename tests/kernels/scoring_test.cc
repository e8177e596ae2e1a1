// What the two forms of scoring mean, on every backend of the build: selections follow the definitions over query codes
// and signed weights, computed here without planes.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <vector>

#include "kernels/planes.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

constexpr int32_t kHeads = 2, kSelect = 50;
// Tails of every vector width, more and fewer candidates than a prefilter keeps.
constexpr int32_t kContexts[] = {119, 301, 64 * 9 + 7};
constexpr size_t kRowHeads = std::size(kContexts) * kHeads;

// The kSelect candidates with the highest of score(row, kv_head, code), lowest index first among equals; ascending.
template <class ScoreOf>
std::vector<int32_t> Best(const SparseDecodeParams& params, int32_t row, int32_t kv_head, const ScoreOf& score_of) {
  std::vector<std::pair<int32_t, int32_t>> ranked;
  for (int32_t token = kSinkTokens; token < kContexts[row] - kRecentTokens; ++token) {
    const int64_t page = params.page_table[int64_t{row} * params.max_pages + token / kPageTokens];
    const int64_t entry = (page * kHeads + kv_head) * kPageTokens + token % kPageTokens;
    ranked.emplace_back(-score_of(row, kv_head, params.pages.codes + entry * params.hash_words), token);
  }
  std::sort(ranked.begin(), ranked.end());
  ranked.resize(std::min<size_t>(ranked.size(), kSelect));
  std::vector<int32_t> tokens;
  for (const auto& [score, token] : ranked) tokens.push_back(token);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

template <class ScoreOf>
void ExpectSelects(DecodeCase* test, const SparseDecodeParams& params, const ScoreOf& score_of) {
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test->ClearOutput();
    ASSERT_TRUE(backend->Run(params, test->arena()).ok());
    for (int32_t row = 0; row < test->num_rows(); ++row) {
      for (int32_t kv_head = 0; kv_head < kHeads; ++kv_head) {
        std::vector<int32_t> selected = test->Selected(row, kv_head);
        selected.resize(test->NumSelected(row, kv_head));
        EXPECT_EQ(selected, Best(params, row, kv_head, score_of)) << "row " << row << " head " << kv_head;
      }
    }
  }
}

TEST(ScoringTest, SymmetricSelectsByMatchesSummedOverTheGroup) {
  for (int group = 1; group <= 15; ++group) {
    for (const int words : {1, 2, 4, 8}) {
      SCOPED_TRACE(::testing::Message() << "G " << group << " W " << words);
      DecodeShape shape;
      shape.group = group;
      shape.hash_words = words;
      shape.num_kv_heads = kHeads;
      shape.num_planes = SymmetricNumPlanes(group);
      shape.top_plane_weight = SymmetricTopPlaneWeight(group);
      shape.context_len.assign(std::begin(kContexts), std::end(kContexts));
      shape.seed = group * 10 + words;
      DecodeCase test(shape);
      test.SelectEverywhere(kSelect);
      const SparseDecodeParams params = test.Sparse();
      std::mt19937 random(shape.seed);
      std::vector<uint32_t> queries(kRowHeads * group * words);
      for (uint32_t& word : queries) word = static_cast<uint32_t>(random());
      for (size_t i = 0; i < kRowHeads; ++i) {
        BuildSymmetricPlanes(queries.data() + i * group * words, group, words,
                             const_cast<uint32_t*>(params.planes) + i * shape.num_planes * words);
      }
      ExpectSelects(&test, params, [&](int32_t row, int32_t kv_head, const uint32_t* code) {
        const uint32_t* query = queries.data() + (row * kHeads + kv_head) * group * words;
        int32_t matches = 0;
        for (int i = 0; i < group * words; ++i) matches += __builtin_popcount(~(query[i] ^ code[i % words]));
        return matches;
      });
    }
  }
}

TEST(ScoringTest, AsymmetricSelectsByTheWeightedSumOfSigns) {
  for (int num_planes = 1; num_planes <= kMaxPlanes; ++num_planes) {
    for (const int words : {1, 2, 4, 8}) {
      SCOPED_TRACE(::testing::Message() << "J " << num_planes << " W " << words);
      DecodeShape shape;
      shape.hash_words = words;
      shape.num_kv_heads = kHeads;
      shape.num_planes = num_planes;
      shape.top_plane_weight = AsymmetricTopPlaneWeight(num_planes);
      shape.context_len.assign(std::begin(kContexts), std::end(kContexts));
      shape.seed = num_planes * 10 + words;
      DecodeCase test(shape);
      test.SelectEverywhere(kSelect);
      const SparseDecodeParams params = test.Sparse();
      std::mt19937 random(shape.seed);
      const int bits = 32 * words, largest = (1 << num_planes) - 1;
      std::vector<int32_t> weights(kRowHeads * bits);
      for (int32_t& weight : weights) weight = static_cast<int32_t>(random() % (1u << num_planes)) * 2 - largest;
      for (size_t i = 0; i < kRowHeads; ++i) {
        BuildAsymmetricPlanes(weights.data() + i * bits, words, num_planes,
                              const_cast<uint32_t*>(params.planes) + i * num_planes * words);
      }
      ExpectSelects(&test, params, [&](int32_t row, int32_t kv_head, const uint32_t* code) {
        const int32_t* weight = weights.data() + (row * kHeads + kv_head) * bits;
        int32_t sum = 0;
        for (int b = 0; b < bits; ++b) sum += (code[b / 32] >> b % 32 & 1u) != 0 ? weight[b] : -weight[b];
        return sum;
      });
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
