#include "client/command_line.h"

#include "client/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spotlight::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CommandLineTest : public ::testing::Test {
 protected:
  CommandLineTest()
      : command_{"brew",
                 "make tea",
                 "",
                 {{"Tea",
                   {Text("leaf", "NAME", "which", [this](std::string v) { leaves_.push_back(std::move(v)); }),
                    Integer("cups", "N", Between(1, 8), "how many", [this](int32_t v) { cups_ = v; }),
                    Real("strength", "S", AboveUpTo(0, 1), "how strong", [this](double v) { strength_ = v; }),
                    UnsignedInteger("seed", "S", "chance", [this](uint64_t v) { seed_ = v; }),
                    Choice("pot", {"glass", "clay"}, "in what", [this](size_t v) { pot_ = v; }),
                    Switch("milk", "add milk", [this] { milk_ = true; })}}},
                 {"spotlight brew --milk"}} {}

  std::string Parse(const std::vector<std::string>& arguments) {
    const absl::Status status = ParseOptions(command_, arguments, &help_);
    return std::string(status.message());
  }

  Command command_;
  std::vector<std::string> leaves_;
  int32_t cups_ = 0;
  double strength_ = 0;
  uint64_t seed_ = 0;
  size_t pot_ = 99;
  bool milk_ = false;
  bool help_ = false;
};

TEST_F(CommandLineTest, ReadsEveryTypeInBothSpellings) {
  EXPECT_EQ(Parse({"--leaf", "assam", "--cups=3", "--strength", "0.5", "--seed=18446744073709551615", "--pot", "clay",
                   "--milk"}),
            "");
  EXPECT_THAT(leaves_, ElementsAre("assam"));
  EXPECT_EQ(cups_, 3);
  EXPECT_EQ(strength_, 0.5);
  EXPECT_EQ(seed_, 18446744073709551615u);
  EXPECT_EQ(pot_, 1);
  EXPECT_TRUE(milk_);
}

TEST_F(CommandLineTest, TakesAnyTextAsAValue) {
  EXPECT_EQ(Parse({"--leaf", "--milk", "--leaf", "", "--leaf=a=b", "--leaf", "{}", "--leaf", "-"}), "");
  EXPECT_THAT(leaves_, ElementsAre("--milk", "", "a=b", "{}", "-"));
  EXPECT_FALSE(milk_);
}

TEST_F(CommandLineTest, NamesTheNearestFlag) {
  EXPECT_EQ(Parse({"--cpus", "1"}), "unknown flag --cpus; did you mean --cups?");
  EXPECT_EQ(Parse({"--str", "1"}), "unknown flag --str; did you mean --strength?");
  EXPECT_EQ(Parse({"--xylophone"}), "unknown flag --xylophone; see spotlight brew --help");
}

TEST_F(CommandLineTest, SaysWhatIsWrongWithAValue) {
  EXPECT_EQ(Parse({"--cups", "9"}), "--cups must be 1 to 8, got 9");
  EXPECT_EQ(Parse({"--cups", "two"}), "--cups takes a 32-bit whole number, got 'two'");
  EXPECT_EQ(Parse({"--cups", "99999999999"}), "--cups takes a 32-bit whole number, got '99999999999'");
  EXPECT_EQ(Parse({"--strength", "0"}), "--strength must be above 0, at most 1, got 0");
  EXPECT_EQ(Parse({"--strength", "nan"}), "--strength takes a finite number, got 'nan'");
  EXPECT_EQ(Parse({"--seed", "-1"}), "--seed takes a 64-bit whole number of 0 or more, got '-1'");
  EXPECT_EQ(Parse({"--pot", "tin"}), "--pot must be one of glass, clay, got 'tin'");
  EXPECT_EQ(Parse({"--leaf", "\xff"}), "--leaf must be valid UTF-8");
  EXPECT_EQ(Parse({"--leaf"}), "--leaf needs a value, NAME");
  EXPECT_EQ(Parse({"--milk=yes"}), "--milk takes no value");
  EXPECT_THAT(Parse({"earl"}), HasSubstr("unexpected argument 'earl'"));
  EXPECT_THAT(Parse({"--"}), HasSubstr("unexpected argument '--'"));
}

TEST_F(CommandLineTest, HelpStopsTheParse) {
  EXPECT_EQ(Parse({"--help", "--nonsense"}), "");
  EXPECT_TRUE(help_);
}

TEST_F(CommandLineTest, HelpShowsGroupsRangesAndExamplesWithinAHundredColumns) {
  command_.groups[0].options[0].help = std::string(60, 'x') + " " + std::string(60, 'y');
  const std::string help = HelpText(command_);
  EXPECT_THAT(help, HasSubstr("\nTea\n"));
  EXPECT_THAT(help, HasSubstr("  --cups N                    how many (1 to 8)\n"));
  EXPECT_THAT(help, HasSubstr("  --pot glass|clay            in what\n"));
  EXPECT_THAT(help, HasSubstr("\nExamples\n  spotlight brew --milk\n"));
  for (size_t begin = 0, end; (end = help.find('\n', begin)) != std::string::npos; begin = end + 1) {
    EXPECT_LE(end - begin, 100) << help.substr(begin, end - begin);
  }
}

TEST(TokenIdsTest, AcceptsCommasSpacesAndBracketsOnly) {
  std::vector<int32_t> ids;
  const auto add = [&](int32_t id) { ids.push_back(id); };
  EXPECT_TRUE(ParseTokenIds("[1, 2,3\n4]", add).ok());
  EXPECT_THAT(ids, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(ParseTokenIds("1,x", add).message(), "takes token ids of 0 or more, got 'x'");
  EXPECT_EQ(ParseTokenIds("-1", add).message(), "takes token ids of 0 or more, got '-1'");
  EXPECT_EQ(ParseTokenIds(" ", add).message(), "takes at least one token id");
}

TEST(Utf8Test, RefusesWhatProtobufRefuses) {
  for (const char* good :
       {"", "ascii", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xC3", "\xC0\x80", "\xC3(", "\xE0\x80\x80", "\xED\xA0\x80", "\xE2\x82",
                          "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(bad)) << bad;
  }
}

}  // namespace
}  // namespace spotlight::client
