#include "client/bench/workload.h"

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "client/bench/arrivals.h"
#include "client/bench/dataset.h"
#include "gtest/gtest.h"

namespace spotlight::client::bench {
namespace {

struct Moments {
  double mean, coefficient_of_variation;
};

Moments IntervalsOf(double rate, double burstiness) {
  Arrivals arrivals(rate, burstiness, 1);
  constexpr int kNum = 20000;
  double sum = 0, squares = 0, before = 0;
  for (int i = 0; i < kNum; ++i) {
    const double time = arrivals.Next();
    sum += time - before;
    squares += (time - before) * (time - before);
    before = time;
  }
  const double mean = sum / kNum;
  return {mean, std::sqrt(squares / kNum - mean * mean) / mean};
}

TEST(ArrivalsTest, IntervalsHaveTheRatesMeanAndTheBurstinesssSpread) {
  // A gamma distribution of shape k varies by 1 / sqrt(k) of its mean; 20,000 draws settle both within 3%.
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const Moments moments = IntervalsOf(50, burstiness);
    EXPECT_NEAR(moments.mean, 1 / 50.0, 0.03 / 50 / std::sqrt(burstiness) * 1.5);
    EXPECT_NEAR(moments.coefficient_of_variation, 1 / std::sqrt(burstiness), 0.06 / std::sqrt(burstiness));
  }
}

TEST(ArrivalsTest, TheSameSeedGivesTheSameTimes) {
  Arrivals a(10, 1, 7), b(10, 1, 7), c(10, 1, 8);
  const double first = a.Next();
  EXPECT_EQ(first, b.Next());
  EXPECT_NE(first, c.Next());
}

TEST(ArrivalsTest, AnInfiniteRateSendsEverythingAtOnce) {
  Arrivals arrivals(std::numeric_limits<double>::infinity(), 1, 0);
  EXPECT_EQ(arrivals.Next(), 0);
  EXPECT_EQ(arrivals.Next(), 0);
}

WorkloadOptions SomeOptions() {
  WorkloadOptions options;
  options.vocab_size = 100;
  options.input = {5, 9};
  options.output = LengthRange{3, 6};
  return options;
}

TEST(WorkloadTest, LengthsCoverTheirRangesAndTokensAreOfTheVocabulary) {
  WorkloadOptions options = SomeOptions();
  options.excluded_tokens = {0, 1, 99};
  const Workload workload(options);
  std::set<int> inputs, outputs;
  for (int i = 0; i < 200; ++i) {
    const WorkItem item = workload.Make(i);
    EXPECT_EQ(item.request.token_ids().ids_size(), item.input_tokens);
    EXPECT_EQ(item.request.stopping().max_tokens(), item.output_tokens);
    inputs.insert(item.input_tokens);
    outputs.insert(item.output_tokens);
    for (const int id : item.request.token_ids().ids()) {
      EXPECT_GE(id, 2);
      EXPECT_LE(id, 98);
    }
  }
  EXPECT_EQ(inputs, (std::set<int>{5, 6, 7, 8, 9}));
  EXPECT_EQ(outputs, (std::set<int>{3, 4, 5, 6}));
}

TEST(WorkloadTest, ARequestDependsOnItsIndexAndTheSeedAlone) {
  WorkloadOptions options = SomeOptions();
  const Workload workload(options), again(options);
  options.seed = 1;
  const Workload other(options);
  again.Make(3);
  EXPECT_EQ(workload.Make(17).request.SerializeAsString(), again.Make(17).request.SerializeAsString());
  EXPECT_NE(workload.Make(17).request.SerializeAsString(), workload.Make(18).request.SerializeAsString());
  EXPECT_NE(workload.Make(17).request.SerializeAsString(), other.Make(17).request.SerializeAsString());
}

TEST(WorkloadTest, ThePrefixIsTheSameInAllPrompts) {
  WorkloadOptions options = SomeOptions();
  options.shared_prefix_tokens = 40;
  const Workload workload(options);
  const auto a = workload.Make(0).request.token_ids().ids(), b = workload.Make(1).request.token_ids().ids();
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 40, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 40, a.begin() + 45, b.begin() + 40));
}

TEST(WorkloadTest, TheShareOfCancelsIsKeptAndTheyComeInTheMiddleOfTheOutput) {
  WorkloadOptions options = SomeOptions();
  options.output = LengthRange{10, 10};
  options.cancel_share = 0.3;
  const Workload workload(options);
  int cancels = 0;
  for (int i = 0; i < 2000; ++i) {
    const int32_t after = workload.Make(i).cancel_after_tokens;
    EXPECT_LE(after, 9);
    cancels += after > 0;
  }
  EXPECT_NEAR(cancels, 600, 80);
}

TEST(WorkloadTest, LengthsAreOneNumberOrTwo) {
  EXPECT_EQ(ParseLengthRange("7", 1)->ToString(), "7");
  EXPECT_EQ(ParseLengthRange("7:9", 1)->ToString(), "7:9");
  for (const char* wrong : {"", "x", "7:", "9:7", "0", "1:2:3", "-4", "99999999999"}) {
    EXPECT_FALSE(ParseLengthRange(wrong, 1).ok()) << wrong;
  }
}

TEST(DatasetTest, ReadsShareGptJsonLinesAndPlainLines) {
  const auto sharegpt = ParseDataset("f", R"([
    {"id": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    {"id": "2", "conversations": [{"from": "human", "value": "alone"}]}])",
                                     100);
  ASSERT_TRUE(sharegpt.ok()) << sharegpt.status();
  ASSERT_EQ(sharegpt->size(), 1);
  EXPECT_EQ((*sharegpt)[0].request.text(), "Hi");
  EXPECT_EQ((*sharegpt)[0].reference_answer, "Hello!");

  const auto lines = ParseDataset("f",
                                  "{\"prompt\": \"one\", \"output_tokens\": 5}\n\n"
                                  "{\"token_ids\": [1, 2], \"max_tokens\": 6}\n"
                                  "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n",
                                  100);
  ASSERT_TRUE(lines.ok()) << lines.status();
  ASSERT_EQ(lines->size(), 3);
  EXPECT_EQ((*lines)[0].output_tokens, 5);
  EXPECT_EQ((*lines)[1].request.token_ids().ids_size(), 2);
  EXPECT_EQ((*lines)[2].request.chat().messages(0).content(), "x");
  EXPECT_FALSE((*lines)[2].output_tokens.has_value());

  const auto plain = ParseDataset("f", "first line\n\n  second\n", 100);
  ASSERT_TRUE(plain.ok()) << plain.status();
  ASSERT_EQ(plain->size(), 2);
  EXPECT_EQ((*plain)[1].request.text(), "second");
  EXPECT_EQ(ParseDataset("f", "a\nb\nc", 2)->size(), 2);
}

TEST(DatasetTest, WhatIsWrongIsSaidWithItsPlace) {
  const struct {
    const char* text;
    const char* words;
  } cases[] = {
      {"", "file: holds no prompt"},
      {"\xff", "not valid UTF-8"},
      {"[{}]", "record 0: needs a string \"prompt\""},
      {"[3]", "record 0: not a JSON object"},
      {"[", "file: "},
      {"{\"prompt\": \"a\"}\n{\"prompt\"", "line 2: "},
      {"{\"prompt\": 3}", "line 1: needs a string \"prompt\""},
      {"{\"token_ids\": [1, -2]}", "got -2"},
      {"{\"prompt\": \"a\", \"max_tokens\": 0}", "\"max_tokens\" must be 1 or more, got 0"},
      {"{\"conversations\": {\"a\": 1}}", "line 1: "},
  };
  for (const auto& c : cases) {
    const auto prompts = ParseDataset("file", c.text, 10);
    ASSERT_FALSE(prompts.ok()) << c.text;
    EXPECT_NE(std::string(prompts.status().message()).find(c.words), std::string::npos) << prompts.status();
  }
}

}  // namespace
}  // namespace spotlight::client::bench
