#include "engine/stop_matcher.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

TEST(StopMatcherTest, TextThatCannotMatchIsReleasedAtOnce) {
  StopMatcher matcher({"END"});
  const auto released = matcher.Push("Hello, world", true);
  EXPECT_EQ(released.text, "Hello, world");
  EXPECT_FALSE(released.matched.has_value());
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, APrefixOfAStopIsHeldUntilItIsDecided) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("the E", true).text, "the ");
  EXPECT_EQ(matcher.Push("N", true).text, "");
  EXPECT_EQ(matcher.Push("E", true).text, "EN");
  EXPECT_EQ(matcher.Push("N", true).text, "");
  const auto released = matcher.Push("D and more", true);
  EXPECT_EQ(released.text, "");
  EXPECT_EQ(released.matched, "END");
}

TEST(StopMatcherTest, FlushGivesWhatWasHeld) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("EN", true).text, "");
  EXPECT_EQ(matcher.Flush(), "EN");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, OverlappingCandidatesAreNotLost) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Push("aaa", true).text, "a");
  const auto released = matcher.Push("b", true);
  EXPECT_EQ(released.text, "");
  EXPECT_EQ(released.matched, "aab");
}

TEST(StopMatcherTest, TheStopThatEndsFirstCountsAndOfEqualsTheLongest) {
  EXPECT_EQ(StopMatcher({"lo, w", "ell"}).Push("Hello, world", true).matched, "ell");
  EXPECT_EQ(StopMatcher({"lo", "ello", "o"}).Push("Hello, world", true).matched, "ello");
  EXPECT_EQ(StopMatcher({"lo", "ello", "o"}).Push("Hello, world", true).text, "H");
}

TEST(StopMatcherTest, StopsThatEndTooEarlyArePassedOver) {
  StopMatcher matcher({"ab"});
  EXPECT_EQ(matcher.Push("xabx", false).text, "xabx");
  EXPECT_EQ(matcher.Push("a", false).text, "");
  const auto released = matcher.Push("b", true);  // ends in text where stopping is allowed
  EXPECT_EQ(released.matched, "ab");
}

TEST(StopMatcherTest, APassedOverStopIsNotFoundLater) {
  StopMatcher matcher({"ab", "abcd"});
  EXPECT_EQ(matcher.Push("ab", false).text, "");  // may become abcd
  const auto released = matcher.Push("x", true);
  EXPECT_EQ(released.text, "abx");
  EXPECT_FALSE(released.matched.has_value());
}

// A small alphabet makes near misses common; the whole text in one piece, found by plain search, is the truth.
TEST(StopMatcherTest, TheResultDoesNotDependOnHowTheTextIsCut) {
  std::mt19937 rng(11);
  int matches = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    const auto random_text = [&](size_t size) {
      std::string text;
      while (text.size() < size) text += "abc"[rng() % 3];
      return text;
    };
    const std::string text = random_text(30);
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + rng() % 3; ++i) stops.push_back(random_text(2 + rng() % 5));

    size_t best_begin = 0, best_end = std::string::npos;
    for (const std::string& stop : stops) {
      const size_t begin = text.find(stop);
      if (begin == std::string::npos) continue;
      const size_t end = begin + stop.size();
      if (end < best_end || (end == best_end && begin < best_begin)) best_begin = begin, best_end = end;
    }
    const bool matches_any = best_end != std::string::npos;
    matches += matches_any;

    StopMatcher matcher(stops);
    std::string out;
    bool matched = false;
    for (size_t i = 0; i < text.size() && !matched;) {
      const size_t size = 1 + rng() % 4;
      const auto released = matcher.Push(text.substr(i, size), true);
      out += released.text;
      matched = released.matched.has_value();
      if (matched) {
        EXPECT_EQ(*released.matched, text.substr(best_begin, best_end - best_begin));
      }
      i += size;
    }
    if (!matched) out += matcher.Flush();
    ASSERT_EQ(matched, matches_any);
    ASSERT_EQ(out, matches_any ? text.substr(0, best_begin) : text);
  }
  EXPECT_GT(matches, 1000);
  EXPECT_LT(matches, 4900);
}

}  // namespace
}  // namespace spotlight::engine
