#include "engine/ops/prefill_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace spotlight::engine {
namespace {

void ExpectCovers(int64_t past, int64_t context, const PrefillBlocks& blocks) {
  SCOPED_TRACE(testing::Message() << "positions [" << past << ", " << context << ")");
  int64_t position = past;
  for (const PrefillPiece& piece : SplitPrefill(past, context, blocks)) {
    ASSERT_EQ(piece.begin, position);
    ASSERT_GT(piece.end, piece.begin);
    ASSERT_LE(piece.end - piece.begin, blocks.max_queries);
    int64_t key = 0;
    for (const PrefillPiece::Keys& part : piece.parts) {
      ASSERT_EQ(part.begin, key);
      ASSERT_GT(part.end, part.begin);
      ASSERT_LE(part.end - part.begin, blocks.max_keys);
      key = part.end;
    }
    ASSERT_EQ(key, piece.end);
    const PrefillPiece::Keys& last = piece.parts.back();
    ASSERT_EQ(last.begin, piece.begin - piece.begin % blocks.unit);
    position = piece.end;
  }
  ASSERT_EQ(position, context);
}

TEST(PrefillBlocksTest, EveryTokenSeesEveryTokenBeforeItOnce) {
  const PrefillBlocks blocks{64, 256, 512};
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const int64_t past = random() % 3000;
    ExpectCovers(past, past + 1 + random() % 1500, blocks);
  }
}

TEST(PrefillBlocksTest, AChunkThatBeginsAndEndsAtABlockTakesBlocksAlone) {
  const PrefillBlocks blocks;
  const std::vector<PrefillPiece> pieces = SplitPrefill(7 * 8192, 8 * 8192, blocks);
  ASSERT_EQ(pieces.size(), 1u);
  std::vector<int64_t> keys;
  for (const PrefillPiece::Keys& part : pieces[0].parts) keys.push_back(part.end - part.begin);
  EXPECT_EQ(keys, (std::vector<int64_t>{32768, 16384, 8192, 8192}));
}

TEST(PrefillBlocksTest, WhatIsNoBlockIsLessThanAUnit) {
  const PrefillBlocks blocks;
  const std::vector<PrefillPiece> pieces = SplitPrefill(64, 12345, blocks);
  ASSERT_EQ(pieces.size(), 5u);
  std::vector<int64_t> lengths;
  for (const PrefillPiece& piece : pieces) lengths.push_back(piece.end - piece.begin);
  EXPECT_EQ(lengths, (std::vector<int64_t>{960, 8192, 2048, 1024, 57}));
  EXPECT_EQ(pieces[4].parts.size(), 2u);
}

TEST(PrefillBlocksTest, FewPairsOfLengthsServeAnyPrompt) {
  const PrefillBlocks blocks;
  std::set<std::pair<int64_t, int64_t>> pairs;
  std::mt19937 random(6);
  for (int i = 0; i < 3000; ++i) {
    const int64_t past = random() % 1000000;
    for (const PrefillPiece& piece : SplitPrefill(past, past + 1 + random() % 8192, blocks)) {
      for (const PrefillPiece::Keys& part : piece.parts) {
        const std::pair<int64_t, int64_t> lengths(piece.end - piece.begin, part.end - part.begin);
        if (blocks.IsBlock(lengths.first, lengths.second)) pairs.insert(lengths);
      }
    }
  }
  // 1K, 2K, 4K, 8K queries on 1K to 64K keys; a causal part is one of them.
  EXPECT_LE(pairs.size(), 28u);
}

// (queries, keys, causal): what a library prepares for.
using Call = std::tuple<int64_t, int64_t, bool>;

std::set<Call> CallsOf(int64_t past, int64_t context, const PrefillBlocks& blocks) {
  std::set<Call> calls;
  for (const PrefillPiece& piece : SplitPrefill(past, context, blocks)) {
    for (const PrefillPiece::Keys& part : piece.parts) {
      const int64_t queries = piece.end - piece.begin, keys = part.end - part.begin;
      if (blocks.IsBlock(queries, keys)) calls.emplace(queries, keys, part.end == piece.end);
    }
  }
  return calls;
}

std::set<Call> CallsOf(const std::vector<PrefillBlock>& prompts, const PrefillBlocks& blocks) {
  std::set<Call> calls;
  for (const PrefillBlock& block : prompts) calls.merge(CallsOf(block.past, block.past + block.queries, blocks));
  return calls;
}

TEST(PrefillBlocksTest, TheBlocksOfPromptsAreAllCallsThatChunksMake) {
  const PrefillBlocks blocks{4, 32, 128};
  using Lengths = std::pair<int64_t, int64_t>;
  for (const auto& [max_tokens, max_context] : {Lengths{32, 300}, Lengths{40, 300}, Lengths{33, 64}, Lengths{64, 50},
                                                Lengths{7, 300}, Lengths{32, 30}, Lengths{3, 300}}) {
    std::set<Call> met;
    for (int64_t past = 0; past < max_context; ++past) {
      for (int64_t context = past + 1; context <= std::min(past + max_tokens, max_context); ++context) {
        met.merge(CallsOf(past, context, blocks));
      }
    }
    EXPECT_EQ(CallsOf(BlocksOfPrompts(max_tokens, max_context, blocks), blocks), met)
        << max_tokens << " of " << max_context;
  }
}

TEST(PrefillBlocksTest, WhatPromptsMeetFromTheirBeginningOnComesFirst) {
  const PrefillBlocks blocks{4, 32, 128};
  std::set<Call> met;
  for (int64_t context = 1; context <= 300; ++context) {
    for (int64_t past = 0; past < context; past += 32) met.merge(CallsOf(past, std::min(past + 32, context), blocks));
  }
  std::vector<PrefillBlock> prompts = BlocksOfPrompts(32, 300, blocks);
  size_t first = 0;
  while (CallsOf({prompts.begin(), prompts.begin() + first}, blocks) != met) ASSERT_LT(first++, prompts.size());
  EXPECT_EQ(first, 19u) << "4 causal ones, 3 inside a chunk of 32, 4 after each of 32, 64 and 128 keys";
  EXPECT_EQ(prompts.size(), 28u);
}

}  // namespace
}  // namespace spotlight::engine
