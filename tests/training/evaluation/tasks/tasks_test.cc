// Generated tasks: the answer is in the text, once, and nothing else can be taken for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "training/evaluation/tasks/encoded_example.h"
#include "training/evaluation/tasks/string_match.h"
#include "training/evaluation/tasks/task.h"
#include "training/evaluation/tasks/words.h"

namespace spotlight::training {
namespace {

int64_t Count(absl::string_view text, absl::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != absl::string_view::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

const Task& Named(const std::string& name) {
  for (const Task& task : GeneratedTasks()) {
    if (task.name == name) return task;
  }
  ADD_FAILURE() << "no task " << name;
  return GeneratedTasks()[0];
}

// A token for each word and each white space character: as good as any for lengths.
absl::StatusOr<std::vector<int32_t>> EncodeWords(absl::string_view text, bool at_start) {
  std::vector<int32_t> ids(at_start ? 1 : 0, 1);
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n"))) {
    ids.push_back(static_cast<int32_t>(word.size()) + 2);
  }
  return ids;
}

class EveryTaskTest : public ::testing::TestWithParam<int> {
 protected:
  const Task& task() const { return GeneratedTasks()[GetParam()]; }
};

TEST_P(EveryTaskTest, SameSeedSameTextAndAnotherSeedAnother) {
  const TaskExample one = task().generate(50, 7), same = task().generate(50, 7), other = task().generate(50, 8);
  EXPECT_EQ(one.context + one.question + one.answer, same.context + same.question + same.answer);
  EXPECT_NE(one.context, other.context);
  EXPECT_NE(one.answer, other.answer);
}

TEST_P(EveryTaskTest, TheAnswerHoldsEveryReferenceAndTheQuestionNone) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskExample example = task().generate(task().min_size + static_cast<int64_t>(seed), seed);
    ASSERT_FALSE(example.references.empty());
    EXPECT_EQ(example.answer[0], ' ');
    EXPECT_EQ(StringMatch(example.answer, example.references), 1);
    EXPECT_EQ(StringMatch(example.question, example.references), 0) << example.question;
    EXPECT_EQ(StringMatch(example.context, example.references), 1) << "the answer is not in the text";
  }
}

TEST_P(EveryTaskTest, LengthsAreJustUnderWhatWasAskedFor) {
  for (const int64_t max_tokens : {700, 1024, 5000, 20000}) {
    auto encoded = EncodeToLength(task(), 3, max_tokens, EncodeWords);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_LE(encoded->num_tokens(), max_tokens);
    // The next larger example has a sentence more, or for words a few entries.
    EXPECT_GT(encoded->num_tokens(), max_tokens - 40);
    EXPECT_EQ(*EncodeWords(encoded->example.question, false), encoded->question);
  }
}

TEST_P(EveryTaskTest, RefusesALengthThatItsShortestTextExceeds) {
  const absl::Status status = EncodeToLength(task(), 3, 10, EncodeWords).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), task().name)) << status;
}

INSTANTIATE_TEST_SUITE_P(All, EveryTaskTest, ::testing::Range(0, static_cast<int>(GeneratedTasks().size())),
                         [](const auto& info) { return GeneratedTasks()[info.param].name; });

TEST(NeedlesTest, TheFactIsThereOnceAndNoOtherNumberIs) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskExample example = Named("needle").generate(100, seed);
    EXPECT_EQ(Count(example.context, example.references[0]), 1);
    EXPECT_EQ(Count(example.context, example.question), 1) << "the question is the fact's beginning";
    EXPECT_EQ(std::count_if(example.context.begin(), example.context.end(), absl::ascii_isdigit), 5);
  }
}

TEST(NeedlesTest, DepthIsWhereTheFactStands) {
  for (const double depth : {0.0, 0.25, 0.5, 1.0}) {
    const TaskExample example = NeedleAtDepth(200, depth, 5);
    const double at = static_cast<double>(example.context.find(example.references[0]));
    EXPECT_NEAR(at / static_cast<double>(example.context.size()), depth, 0.03);
  }
}

TEST(NeedlesTest, ManyKeysAreDistinctAndTheAskedOneHasOneValue) {
  const TaskExample example = Named("many_keys").generate(2000, 11);
  EXPECT_EQ(Count(example.context, "The special magic number for "), 2001);
  EXPECT_EQ(Count(example.context, example.question), 1);
  EXPECT_EQ(Count(example.context, absl::StrCat(" ", example.references[0], ".")), 1);
}

TEST(NeedlesTest, ValuesOfOneKeyAreAskedInTheOrderOfTheText) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskExample example = Named("multi_value").generate(60, seed);
    size_t last = 0;
    for (const std::string& value : example.references) {
      const size_t at = example.context.find(value);
      EXPECT_GT(at, last);
      last = at;
    }
  }
}

TEST(NeedlesTest, SeveralKeysAreAskedWithTheirOwnValues) {
  const TaskExample example = Named("multi_query").generate(60, 3);
  size_t at = 0;
  for (const std::string& value : example.references) {
    // "... for KEY is VALUE.": keys come in the question in the order of the references.
    const size_t end = example.context.find(" is " + value);
    ASSERT_NE(end, std::string::npos);
    const size_t begin = example.context.rfind(" for ", end) + 5;
    const size_t asked = example.question.find(example.context.substr(begin, end - begin), at);
    ASSERT_NE(asked, std::string::npos);
    at = asked;
  }
}

TEST(VariablesTest, FollowingTheAssignmentsGivesTheAnswer) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskExample example = Named("variables").generate(40, seed);
    std::map<std::string, std::string> held;
    std::set<std::string> assigned;
    for (const absl::string_view part : absl::StrSplit(example.context, "VAR ")) {
      const std::vector<absl::string_view> sides = absl::StrSplit(part.substr(0, part.find('.')), " = ");
      if (sides.size() != 2) continue;
      const std::string name(sides[0]), value(sides[1]);
      EXPECT_TRUE(assigned.insert(name).second) << name << " is assigned twice";
      held[name] = held.count(value) > 0 ? held[value] : value;
    }
    EXPECT_EQ(held.size(), 15u);
    std::vector<std::string> answer;
    for (const auto& [name, value] : held) {
      int32_t number = 0;
      EXPECT_TRUE(absl::SimpleAtoi(value, &number)) << name << " = " << value << " comes before its assignment";
      if (absl::StrContains(example.question, value)) answer.push_back(name);
    }
    std::vector<std::string> references = example.references;
    std::sort(references.begin(), references.end());
    EXPECT_EQ(answer, references);
  }
}

// Counts of the words of "1. word 2. word ...".
std::vector<std::pair<int64_t, std::string>> WordCounts(const std::string& context) {
  std::map<std::string, int64_t> counts;
  const std::string list = context.substr(context.find("List: ") + 6);
  for (const absl::string_view word : absl::StrSplit(list, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (word.back() != '.') ++counts[std::string(word)];
  }
  std::vector<std::pair<int64_t, std::string>> sorted;
  for (const auto& [word, count] : counts) sorted.emplace_back(count, word);
  std::sort(sorted.rbegin(), sorted.rend());
  return sorted;
}

TEST(WordCountsTest, TheMostFrequentWordsAreTheAnswerWithoutTies) {
  for (const auto& [name, size] : {std::make_pair("common_words", 30), std::make_pair("common_words", 600),
                                   std::make_pair("frequent_words", 10), std::make_pair("frequent_words", 2000)}) {
    SCOPED_TRACE(absl::StrCat(name, " ", size));
    const TaskExample example = Named(name).generate(size, 9);
    const auto counts = WordCounts(example.context);
    const size_t asked = example.references.size();
    ASSERT_GT(counts.size(), asked);
    EXPECT_GT(counts[asked - 1].first, counts[asked].first);
    std::set<std::string> most;
    for (size_t i = 0; i < asked; ++i) most.insert(counts[i].second);
    EXPECT_EQ(most, std::set<std::string>(example.references.begin(), example.references.end()));
  }
}

TEST(WordsTest, EverythingDrawnIsDistinct) {
  Random random(1);
  const auto distinct = [](const std::vector<std::string>& words) {
    return std::set<std::string>(words.begin(), words.end()).size();
  };
  EXPECT_EQ(distinct(DrawKeys(kMaxKeys, &random)), static_cast<size_t>(kMaxKeys));
  EXPECT_EQ(distinct(DrawValues(5000, &random)), 5000u);
  EXPECT_EQ(distinct(DrawVariableNames(5000, &random)), 5000u);
  EXPECT_EQ(distinct(DrawNouns(kMaxNouns, &random)), static_cast<size_t>(kMaxNouns));
  EXPECT_EQ(distinct(DrawMadeUpWords(50000, &random)), 50000u);
  EXPECT_EQ(distinct(FillerSentences(&random).Draw(20000)), 20000u);
}

TEST(WordsTest, NoNounIsPartOfAnother) {
  Random random(1);
  const std::vector<std::string> nouns = DrawNouns(168, &random);
  for (const std::string& one : nouns) {
    EXPECT_FALSE(absl::StrContains(one, "-")) << "there are fewer than 168 nouns";
    for (const std::string& other : nouns) EXPECT_TRUE(one == other || !absl::StrContains(other, one)) << one;
  }
}

TEST(StringMatchTest, IsTheShareOfReferencesFoundInEitherCase) {
  EXPECT_EQ(StringMatch("It is 12345, and FALCON.", {"12345", "falcon"}), 1);
  EXPECT_EQ(StringMatch("It is 12345.", {"12345", "99999"}), 0.5);
  EXPECT_EQ(StringMatch("", {"12345"}), 0);
}

TEST(EncodeToLengthTest, EncodingErrorsComeAsTheyAre) {
  const auto fail = [](absl::string_view, bool) -> absl::StatusOr<std::vector<int32_t>> {
    return absl::DataLossError("stop");
  };
  EXPECT_EQ(EncodeToLength(Named("needle"), 1, 500, fail).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace spotlight::training
