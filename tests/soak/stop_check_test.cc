#include "tests/soak/stop_check.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/soak/tiny_tokens.h"

namespace spotlight::soak {
namespace {

constexpr int32_t kUnknown = 200;  // of more than one character

std::vector<int32_t> Ids(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char letter : text) ids.push_back(letter - CharacterOf(0));
  return ids;
}

v1::Stopping Asked(const std::vector<std::string>& stops, const std::string& stop_tokens = "", int max_tokens = 8) {
  v1::Stopping stopping;
  stopping.set_max_tokens(max_tokens);
  stopping.set_ignore_eos(true);
  for (const std::string& stop : stops) stopping.add_stop(stop);
  for (const int32_t id : Ids(stop_tokens)) stopping.add_stop_token_ids(id);
  return stopping;
}

SampleEnd AtLength(std::vector<int32_t> ids, const std::string& text) {
  return {1, v1::FINISH_REASON_LENGTH, std::move(ids), text, "", {}};
}

SampleEnd AtString(std::vector<int32_t> ids, const std::string& text, const std::string& stop) {
  return {1, v1::FINISH_REASON_STOP, std::move(ids), text, stop, {}};
}

SampleEnd AtToken(std::vector<int32_t> ids, const std::string& text, int32_t token) {
  return {1, v1::FINISH_REASON_STOP, std::move(ids), text, "", token};
}

const int32_t kZ = Ids("z")[0];

TEST(StopCheckTest, AtTheFirstStopString) {
  const v1::Stopping asked = Asked({"cd", "x"});
  EXPECT_EQ(WrongInStop(asked, AtString(Ids("abcd"), "ab", "cd")), "");
  EXPECT_EQ(WrongInStop(asked, AtString(Ids("x"), "", "x")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcd"), "abcd", "cd")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcd"), "a", "cd")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcd"), "ab", "x")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcd"), "abc", "d")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcde"), "ab", "cd")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abc"), "ab", "cd")), "");
  EXPECT_NE(WrongInStop(asked, AtString({}, "", "cd")), "");
}

TEST(StopCheckTest, OfStopStringsThatEndTogetherTheLongest) {
  EXPECT_EQ(WrongInStop(Asked({"c", "bc"}), AtString(Ids("abc"), "a", "bc")), "");
  EXPECT_NE(WrongInStop(Asked({"c", "bc"}), AtString(Ids("abc"), "ab", "c")), "");
}

TEST(StopCheckTest, TheStopStaysWhereAskedFor) {
  v1::Stopping asked = Asked({"cd"}, "z");
  asked.set_include_stop(true);
  EXPECT_EQ(WrongInStop(asked, AtString(Ids("abcd"), "abcd", "cd")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abcd"), "ab", "cd")), "");
  EXPECT_EQ(WrongInStop(asked, AtToken(Ids("abz"), "abz", kZ)), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abz"), "ab", kZ)), "");
}

TEST(StopCheckTest, AtTheFirstStopToken) {
  const v1::Stopping asked = Asked({}, "yz");
  EXPECT_EQ(WrongInStop(asked, AtToken(Ids("abz"), "ab", kZ)), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abz"), "abz", kZ)), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("ayz"), "ay", kZ)), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abc"), "ab", kZ)), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abc"), "ab", Ids("c")[0])), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abz"), "ab", Ids("y")[0])), "");
}

TEST(StopCheckTest, AtAnEndOfSequenceUnlessItIsIgnored) {
  v1::Stopping asked = Asked({}, "", 3);
  std::vector<int32_t> ids = Ids("ab");
  ids.push_back(kEndsOfSequence[0]);
  EXPECT_EQ(WrongInStop(asked, AtLength(ids, "ab")), "");
  EXPECT_NE(WrongInStop(asked, AtToken(ids, "ab", kEndsOfSequence[0])), "");
  asked.set_ignore_eos(false);
  EXPECT_EQ(WrongInStop(asked, AtToken(ids, "ab", kEndsOfSequence[0])), "");
  EXPECT_NE(WrongInStop(asked, AtLength(ids, "ab")), "");
}

TEST(StopCheckTest, AtItsLength) {
  const v1::Stopping asked = Asked({"xy"}, "z", 3);
  EXPECT_EQ(WrongInStop(asked, AtLength(Ids("abx"), "abx")), "");
  EXPECT_NE(WrongInStop(asked, AtLength(Ids("abx"), "ab")), "");
  EXPECT_NE(WrongInStop(asked, AtLength(Ids("ab"), "ab")), "");
  EXPECT_NE(WrongInStop(asked, AtLength(Ids("abcd"), "abcd")), "");
  EXPECT_NE(WrongInStop(asked, AtLength(Ids("axy"), "axy")), "");
  EXPECT_NE(WrongInStop(asked, AtLength(Ids("abz"), "ab")), "");
  SampleEnd other = AtLength(Ids("abc"), "abc");
  EXPECT_EQ(WrongInStop(asked, other), "");
  other.finish_reason = v1::FINISH_REASON_CANCELLED;
  EXPECT_NE(WrongInStop(asked, other), "");
  other.finish_reason = v1::FINISH_REASON_STOP;
  EXPECT_NE(WrongInStop(asked, other), "");
}

TEST(StopCheckTest, NotBeforeMinTokens) {
  v1::Stopping asked = Asked({"bc"}, "z");
  asked.set_min_tokens(4);
  EXPECT_EQ(WrongInStop(asked, AtString(Ids("bczbc"), "bcz", "bc")), "");
  EXPECT_EQ(WrongInStop(asked, AtString(Ids("aabc"), "aa", "bc")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("abc"), "a", "bc")), "");
  EXPECT_NE(WrongInStop(asked, AtString(Ids("aabcbc"), "aabc", "bc")), "");
  EXPECT_NE(WrongInStop(asked, AtToken(Ids("abz"), "ab", kZ)), "");
  EXPECT_EQ(WrongInStop(asked, AtToken(Ids("abzz"), "abz", kZ)), "");
}

TEST(StopCheckTest, OfTokensWhoseTextIsNotKnownTheTextThatCame) {
  v1::Stopping asked = Asked({"he", "x"}, "z", 3);
  EXPECT_EQ(WrongInStop(asked, AtString({1, kUnknown}, "a t", "he")), "");
  EXPECT_NE(WrongInStop(asked, AtString({1, kUnknown}, "a the", "he")), "");
  EXPECT_NE(WrongInStop(asked, AtString({1, kUnknown}, "a xt", "he")), "");
  EXPECT_EQ(WrongInStop(asked, AtLength({1, 2, kUnknown}, "a t")), "");
  EXPECT_NE(WrongInStop(asked, AtLength({1, 2, kUnknown}, "a the")), "");
  EXPECT_NE(WrongInStop(asked, AtLength({1, kZ, kUnknown}, "a t")), "");
  asked.set_include_stop(true);
  EXPECT_EQ(WrongInStop(asked, AtString({1, kUnknown}, "a the", "he")), "");
  EXPECT_NE(WrongInStop(asked, AtString({1, kUnknown}, "a t", "he")), "");
  EXPECT_NE(WrongInStop(asked, AtString({1, kUnknown}, "a hehe", "he")), "");
}

TEST(StopCheckTest, EveryWayToEndIsTaken) {
  StreamEnd end;
  end.behaviour = Behaviour::kStops;
  end.samples = {AtString(Ids("ab"), "a", "b"), AtToken(Ids("a"), "", Ids("a")[0]),
                 AtToken({kEndsOfSequence[1]}, "", kEndsOfSequence[1]), AtLength(Ids("a"), "a")};
  const std::vector<StreamEnd> many(100, end);
  const StopCounts counts = CountStops(many);
  EXPECT_EQ(counts.by_string, 100);
  EXPECT_EQ(counts.by_token, 100);
  EXPECT_EQ(counts.by_end_of_sequence, 100);
  EXPECT_EQ(counts.by_length, 100);
  EXPECT_TRUE(CheckStopCounts(counts).empty());
  for (size_t missing = 0; missing < end.samples.size(); ++missing) {
    StreamEnd fewer = end;
    fewer.samples.erase(fewer.samples.begin() + static_cast<std::ptrdiff_t>(missing));
    EXPECT_EQ(CheckStopCounts(CountStops(std::vector<StreamEnd>(100, fewer))).size(), 1);
    EXPECT_TRUE(CheckStopCounts(CountStops({fewer})).empty()) << "too few to tell";
  }
  // Others' are not counted, nor those of streams that failed.
  end.status = grpc::Status(grpc::StatusCode::CANCELLED, "");
  StreamEnd patient = many[0];
  patient.behaviour = Behaviour::kPatient;
  EXPECT_EQ(CountStops({end, patient}).total(), 0);
}

}  // namespace
}  // namespace spotlight::soak
