// Texts found, their kinds, and sequences cut from them.
#include "training/evaluation/evaluation_texts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/status/status.h"
#include "training/corpus.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;

class EvaluationTextsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    auto tokenizer = engine::Tokenizer::Load("tests/testdata/tiny-llama/tokenizer.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  std::string Write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }

  static std::string Words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "word" + std::to_string(i * 7919 % 1000) + (i % 9 == 8 ? "\n" : " ");
    return text;
  }

  fs::path folder_;
  std::unique_ptr<engine::Tokenizer> tokenizer_;
};

TEST_F(EvaluationTextsTest, TheKindIsTheFolderUnlessItIsGiven) {
  Write("code/b.go.txt", "b");
  Write("books/a.txt", "a");
  Write("books/.hidden", "no");
  Write("books/.git/object", "no");
  fs::create_symlink("nowhere", folder_ / "books" / "broken");
  fs::create_symlink("..", folder_ / "books" / "loop");
  const auto texts = FindTexts({folder_.string(), "prose=" + (folder_ / "books").string(), Write("c.txt", "c")});
  ASSERT_TRUE(texts.ok()) << texts.status();
  std::vector<std::string> found;
  for (const EvaluationText& text : *texts) found.push_back(text.kind + "/" + text.name);
  // The first folder also holds c.txt by now: it is written before FindTexts looks.
  EXPECT_EQ(found, (std::vector<std::string>{"books/a", "TheKindIsTheFolderUnlessItIsGiven/c", "code/b.go", "prose/a",
                                             "TheKindIsTheFolderUnlessItIsGiven/c"}));
}

TEST_F(EvaluationTextsTest, NamesWhatIsNotThereAndEmptyFolders) {
  const auto missing = FindTexts({"nowhere/at-all.txt"});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("nowhere/at-all.txt: no such file or folder"), absl::string_view::npos);
  EXPECT_NE(FindTexts({folder_.string()}).status().message().find("holds no files"), absl::string_view::npos);
}

TEST_F(EvaluationTextsTest, SequencesFollowEachOtherInTheText) {
  const std::string text = Words(2000);
  const auto texts = FindTexts({Write("a.txt", text)});
  const auto ids = tokenizer_->Encode(text, /*add_special_tokens=*/false);
  const auto prefix = tokenizer_->Encode("", /*add_special_tokens=*/true);
  ASSERT_TRUE(texts.ok() && ids.ok() && prefix.ok());
  constexpr int64_t kTokens = 600;
  const auto sequences = CutSequences(*texts, *tokenizer_, kTokens, 3);
  ASSERT_TRUE(sequences.ok()) << sequences.status();
  ASSERT_EQ(sequences->size(), 3u);
  const int64_t body = kTokens - static_cast<int64_t>(prefix->size());
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<int32_t> expected = *prefix;
    expected.insert(expected.end(), ids->begin() + i * body, ids->begin() + (i + 1) * body);
    EXPECT_EQ((*sequences)[i].token_ids, expected) << i;
    EXPECT_EQ((*sequences)[i].index, i);
  }
}

TEST_F(EvaluationTextsTest, SequencesBeginAsThoseOfTrainingDo) {
  const auto texts = FindTexts({Write("a.txt", Words(2000))});
  const auto prefix = TokensBeforeText(*tokenizer_);
  ASSERT_TRUE(texts.ok() && prefix.ok());
  EXPECT_EQ(*prefix, std::vector<int32_t>{*tokenizer_->TokenId("<|begin_of_text|>")});
  const auto sequences = CutSequences(*texts, *tokenizer_, 600, 1);
  ASSERT_TRUE(sequences.ok()) << sequences.status();
  EXPECT_EQ(sequences->front().token_ids.front(), prefix->front());
  EXPECT_NE(sequences->front().token_ids[1], prefix->front());
}

TEST_F(EvaluationTextsTest, ATextGivesWhatItHasButNoLessThanOneSequence) {
  const auto texts = FindTexts({Write("a.txt", Words(300))});
  const auto ids = tokenizer_->Encode(Words(300), false);
  const auto tokens = static_cast<int64_t>(ids->size());
  EXPECT_EQ(CutSequences(*texts, *tokenizer_, tokens / 2, 100)->size(), 2u);
  const auto short_of = CutSequences(*texts, *tokenizer_, tokens + 5, 1);
  ASSERT_FALSE(short_of.ok());
  EXPECT_EQ(short_of.status().message(), (*texts)[0].path + ": has " + std::to_string(tokens) +
                                             " tokens, a sequence needs " + std::to_string(tokens + 5) +
                                             " (--context)");
}

// Characters of four bytes at every offset from where the first read ends.
TEST_F(EvaluationTextsTest, ReadsNoPartOfACharacter) {
  for (int shift = 0; shift < 4; ++shift) {
    std::string text(shift, 'x');
    for (int i = 0; i < 3000; ++i) text += "\xf0\x9f\x8c\x8a";
    const auto texts = FindTexts({Write("waves.txt", text)});
    const auto sequences = CutSequences(*texts, *tokenizer_, 512, 1);
    ASSERT_TRUE(sequences.ok()) << sequences.status();
    const auto whole = tokenizer_->Encode(text, /*add_special_tokens=*/true);
    const std::vector<int32_t> begin(whole->begin(), whole->begin() + 512);
    EXPECT_EQ((*sequences)[0].token_ids, begin) << shift;
  }
}

TEST_F(EvaluationTextsTest, RefusesWhatIsNoText) {
  const auto texts = FindTexts({Write("binary.txt", std::string("\xff\xfe\x00\x01", 4) + Words(500))});
  const auto sequences = CutSequences(*texts, *tokenizer_, 512, 1);
  EXPECT_EQ(sequences.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(sequences.status().message().find("binary.txt: "), absl::string_view::npos);
}

}  // namespace
}  // namespace spotlight::training
