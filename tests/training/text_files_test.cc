#include "training/text_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr int64_t kNoLimit = int64_t{1} << 40;

class TextFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "text_files_test_" + std::to_string(getpid()) + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::create_directories(folder_ + "/b/inner");
    fs::create_directories(folder_ + "/.git");
  }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  static std::vector<std::string> Texts(const TextFiles& files) {
    std::vector<std::string> texts;
    for (const TextPiece& piece : files.pieces) texts.push_back(piece.text);
    return texts;
  }
  std::string folder_;
};

TEST_F(TextFilesTest, FoldersAreReadDeepAndInTheOrderOfTheirPaths) {
  Write("c.txt", "third");
  Write("b/inner/x.md", "second");
  Write("a.txt", "first");
  Write(".hidden", "no");
  Write(".git/object", "no");
  Write("empty.txt", "");
  Write("binary", std::string("no\0no", 5));
  Write("latin1.txt", "na\xefve");
  fs::create_symlink("..", folder_ + "/b/loop");
  const auto files = ReadTextFiles({folder_}, kNoLimit);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(Texts(*files), ElementsAre("first", "second", "third"));
  EXPECT_EQ(files->num_files, 3);
  EXPECT_EQ(files->num_skipped_files, 2);
  EXPECT_EQ(files->num_bytes, 16);
}

TEST_F(TextFilesTest, NamedFilesComeInTheOrderOfTheirNaming) {
  const std::string first = Write("z.txt", "one"), second = Write("a.txt", "two");
  const auto files = ReadTextFiles({first, second}, kNoLimit);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(Texts(*files), ElementsAre("one", "two"));
}

TEST_F(TextFilesTest, WhatIsNamedMustBeText) {
  const auto message = [](const std::string& path) {
    return std::string(ReadTextFiles({path}, kNoLimit).status().message());
  };
  EXPECT_THAT(message(Write("a", "\xff\xfe")), EndsWith("a: is not UTF-8 text"));
  EXPECT_THAT(message(Write("b.txt", "")), EndsWith("b.txt: is empty"));
  EXPECT_THAT(message(folder_ + "/nothing"), EndsWith("nothing: no such file"));
  EXPECT_THAT(message(folder_ + "/b"), EndsWith("b: holds no UTF-8 text among its 0 files"));
  // Opens, and cannot be read at its beginning.
  EXPECT_THAT(message("/proc/self/mem"), HasSubstr("/proc/self/mem: cannot be read"));
  EXPECT_EQ(ReadTextFiles({}, kNoLimit).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TextFilesTest, LongFilesAreCutAtLineEndsAndLoseNothing) {
  std::string text;
  while (text.size() < 2'000'000) text += "A line of no great length, with an \xc3\xa4 in it.\n";
  const std::string path = Write("long.txt", text);
  const auto files = ReadTextFiles({path}, kNoLimit);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_GT(files->pieces.size(), 4u);
  std::string joined;
  for (const TextPiece& piece : files->pieces) {
    EXPECT_EQ(piece.text.back(), '\n');
    EXPECT_EQ(piece.begins_document, joined.empty());
    joined += piece.text;
  }
  EXPECT_EQ(joined, text);
}

TEST_F(TextFilesTest, TextWithoutLinesIsCutBetweenCharacters) {
  std::string text = "x";
  while (text.size() < 1'000'000) text += "\xe4\xbd\xa0";
  const auto files = ReadTextFiles({Write("long.txt", text)}, kNoLimit);
  ASSERT_TRUE(files.ok()) << files.status();
  std::string joined;
  for (const TextPiece& piece : files->pieces) {
    EXPECT_NE(static_cast<unsigned char>(piece.text.front()) & 0xC0, 0x80);
    joined += piece.text;
  }
  EXPECT_EQ(joined, text);
}

TEST_F(TextFilesTest, OfTooMuchTextAnEvenShareIsTaken) {
  for (int i = 0; i < 100; ++i) Write("b/" + std::to_string(100 + i), std::string(1000, 'a'));
  const auto files = ReadTextFiles({folder_}, 25'000);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->num_bytes, 25'000);
  EXPECT_EQ(files->total_bytes, 100'000);
  EXPECT_THAT(files->pieces.front().path, EndsWith("b/101"));
  EXPECT_THAT(files->pieces.back().path, EndsWith("b/197"));
}

TEST_F(TextFilesTest, OfOneShortFileSomethingIsTakenHoweverSmallTheShare) {
  const auto files = ReadTextFiles({Write("a.txt", std::string(50'000, 'a'))}, 20'000);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->num_bytes, 50'000);
}

TEST_F(TextFilesTest, FilesThatAreNoTextDoNotShrinkTheShare) {
  for (int i = 0; i < 100; ++i) Write("b/" + std::to_string(100 + i), std::string(1000, 'a'));
  Write("b/inner/archive", std::string(1'000'000, '\0'));
  Write("b/inner/picture", std::string(1'000'000, '\xff'));
  const auto files = ReadTextFiles({folder_}, 25'000);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->num_bytes, 25'000);
  EXPECT_EQ(files->num_skipped_files, 2);
}

TEST_F(TextFilesTest, LongTextCutInACharacterIsText) {
  std::string text = "x";
  while (text.size() < 200'000) text += "\xe4\xbd\xa0";
  for (const char* name : {"b/1", "b/2", "b/3", "b/4"}) Write(name, text);
  const auto files = ReadTextFiles({folder_}, 2 * static_cast<int64_t>(text.size()));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->num_files, 2) << "the share of four texts";
}

}  // namespace
}  // namespace spotlight::training
