#include "training/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

#include "absl/status/status.h"

namespace spotlight::training {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = "tests/testdata/tiny-llama";

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = engine::Tokenizer::Load(std::string(kModel) + "/tokenizer.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    auto config = engine::LoadModelConfig(kModel);
    ASSERT_TRUE(config.ok()) << config.status();
    config_ = *std::move(config);
  }
  static TextFiles Documents(const std::vector<std::string>& texts) {
    TextFiles files;
    for (const std::string& text : texts) files.pieces.push_back({"document", true, text});
    return files;
  }
  std::unique_ptr<engine::Tokenizer> tokenizer_;
  engine::ModelConfig config_;
};

TEST_F(CorpusTest, SmallDocumentsShareASequenceAndEachBeginsWithTheBos) {
  const std::vector<std::string> texts(60, "A small file, much shorter than a sequence.");
  const auto corpus = MakeCorpus(Documents(texts), *tokenizer_, config_, 64);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  const auto ids = tokenizer_->Encode(texts.front(), /*add_special_tokens=*/false);
  EXPECT_EQ(corpus->num_tokens, static_cast<int64_t>(60 * ids->size() + 59));
  const int64_t body = 63;  // a BOS and 63 tokens of text
  EXPECT_EQ(static_cast<int64_t>(corpus->train.size() + corpus->heldout.size()), corpus->num_tokens / body);
  EXPECT_EQ(corpus->num_dropped_tokens, corpus->num_tokens % body);
  for (const auto& sequence : corpus->train) {
    EXPECT_EQ(sequence.size(), 64u);
    EXPECT_EQ(sequence.front(), *tokenizer_->TokenId("<|begin_of_text|>"));
  }
  // The first sequence is the first document, what stands between documents, and the second's beginning.
  const std::vector<int32_t>& first = corpus->train.front();
  EXPECT_TRUE(std::equal(ids->begin(), ids->end(), first.begin() + 1));
  EXPECT_TRUE(std::equal(ids->begin(), ids->begin() + 5, first.begin() + 2 + ids->size()));
  EXPECT_NE(first[1 + ids->size()], ids->front());
}

TEST_F(CorpusTest, PiecesOfOneDocumentFollowEachOtherWithoutABreak) {
  TextFiles files = Documents({"One line.\n", "Another line.\n"});
  files.pieces[1].begins_document = false;
  std::string padding;
  for (int i = 0; i < 100; ++i) padding += "More and more lines.\n";
  files.pieces.push_back({"document", false, padding});
  const auto pieces = MakeCorpus(files, *tokenizer_, config_, 64);
  const auto whole = MakeCorpus(Documents({"One line.\nAnother line.\n" + padding}), *tokenizer_, config_, 64);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  EXPECT_EQ(pieces->train, whole->train);
  EXPECT_EQ(pieces->sha256, whole->sha256);
  // sha256sum of one file's text is what the corpus of one file is called.
  EXPECT_NE(MakeCorpus(Documents({padding, padding}), *tokenizer_, config_, 64)->sha256,
            MakeCorpus(Documents({padding + padding}), *tokenizer_, config_, 64)->sha256);
}

TEST_F(CorpusTest, TooLittleTextSaysHowMuchThereIsAndIsNeeded) {
  const auto corpus = MakeCorpus(Documents({"Hello"}), *tokenizer_, config_, 1024);
  EXPECT_EQ(corpus.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(corpus.status().message()), HasSubstr("training needs at least 2046: two sequences of 1024"));
}

TEST_F(CorpusTest, SequencesAreHeldOutEvenly) {
  for (const auto& [total, heldout] : {std::make_pair(2, 1), std::make_pair(7, 1), std::make_pair(8, 2),
                                       std::make_pair(39, 2), std::make_pair(40, 4), std::make_pair(1000, 4)}) {
    SCOPED_TRACE(total);
    const Corpus corpus = RandomCorpus(1 << 30, 4, total, 1);
    EXPECT_EQ(static_cast<int>(corpus.heldout.size()), heldout);
    EXPECT_EQ(static_cast<int>(corpus.train.size()), total - heldout);
    for (const auto& sequence : corpus.heldout) {
      EXPECT_EQ(std::count(corpus.train.begin(), corpus.train.end(), sequence), 0);
    }
  }
}

TEST(LimitSequencesTest, KeepsAnEvenShare) {
  Corpus corpus;
  for (int32_t i = 0; i < 100; ++i) corpus.train.push_back({i});
  LimitSequences(4, corpus);
  EXPECT_EQ(corpus.train, (std::vector<std::vector<int32_t>>{{24}, {49}, {74}, {99}}));
  LimitSequences(0, corpus);
  EXPECT_EQ(corpus.train.size(), 4u);
}

TEST(SequenceOrderTest, EveryEpochSeesEverySequenceOnceInAnotherOrder) {
  SequenceOrder order(50, 3);
  std::vector<int64_t> first, second;
  for (int64_t step = 0; step < 50; ++step) first.push_back(order.At(step));
  for (int64_t step = 50; step < 100; ++step) second.push_back(order.At(step));
  EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), 50u);
  EXPECT_EQ(std::set<int64_t>(second.begin(), second.end()).size(), 50u);
  EXPECT_NE(first, second);
  // From anywhere, as a resumed run asks.
  SequenceOrder again(50, 3);
  EXPECT_EQ(again.At(77), second[27]);
  EXPECT_EQ(again.At(10), first[10]);
  SequenceOrder other_seed(50, 4);
  std::vector<int64_t> other;
  for (int64_t step = 0; step < 50; ++step) other.push_back(other_seed.At(step));
  EXPECT_NE(other, first);
}

}  // namespace
}  // namespace spotlight::training
