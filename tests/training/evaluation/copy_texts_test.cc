#include "training/evaluation/copy_texts.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "absl/status/status.h"

namespace spotlight::training {
namespace {

std::vector<int32_t> Counting(int32_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(CopyTextsTest, RunningTextScoresItsSecondHalf) {
  auto sequence = RunningText("books", Counting(2000), 1000);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  EXPECT_EQ(sequence->token_ids, Counting(1000));
  EXPECT_EQ(sequence->kind, "running");
  EXPECT_EQ(sequence->dense_tokens, 500);
  EXPECT_EQ(sequence->first_query, 500);
}

TEST(CopyTextsTest, RepeatedTextIsItsFirstHalfTwice) {
  auto sequence = RepeatedText("books", Counting(1001), 1001);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_EQ(sequence->token_ids.size(), 1000u);
  EXPECT_EQ(sequence->dense_tokens, 500);
  for (int32_t i = 0; i < 1000; ++i) EXPECT_EQ(sequence->token_ids[i], i % 500);
}

TEST(CopyTextsTest, NeedlePassageBeginsAtAnEighthAndComesAgainAtTheEnd) {
  auto sequence = NeedlePassage("books", Counting(8192), 8192);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_EQ(sequence->token_ids.size(), 8192u);
  EXPECT_EQ(sequence->token_ids[8192 - 513], 8192 - 513);
  EXPECT_EQ(sequence->token_ids[8192 - 512], 1024);
  EXPECT_EQ(sequence->token_ids[8191], 1024 + 511);
  EXPECT_EQ(sequence->dense_tokens, 4096);
  EXPECT_EQ(sequence->first_query, 8192 - 512 + 64);
}

TEST(CopyTextsTest, AShortSequencesPassageIsAQuarterOfIt) {
  auto sequence = NeedlePassage("books", Counting(1024), 1024);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  EXPECT_EQ(sequence->token_ids[1024 - 256], 128);
  EXPECT_EQ(sequence->first_query, 1024 - 256 + 32);
}

TEST(CopyTextsTest, RefusesTooFewTokensNamingTheText) {
  EXPECT_EQ(RunningText("books", Counting(999), 1000).status().message(),
            "books: has 999 tokens, a sequence of 1000 was asked for");
  EXPECT_EQ(RepeatedText("books", Counting(999), 2).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CopyTextsTest, RefusesAPassageThatDoesNotFitTheFirstHalf) {
  EXPECT_EQ(NeedlePassage("books", Counting(1024), 1024, 512).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(NeedlePassage("books", Counting(1024), 1024, 128).ok());
}

}  // namespace
}  // namespace spotlight::training
