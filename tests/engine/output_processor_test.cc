#include "engine/output_processor.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/tiny_model.h"

namespace spotlight::engine {
namespace {

constexpr int32_t kNoLimit = 1 << 20;

class OutputProcessorTest : public testing::Test {
 protected:
  void SetUp() override {
    tokenizer_ = LoadTinyTokenizer();
    ASSERT_NE(tokenizer_, nullptr);
  }

  void Start(StoppingParams stopping, int32_t max_output_tokens = kNoLimit, bool with_logprobs = false) {
    auto processor =
        OutputProcessor::Create(tokenizer_.get(), std::move(stopping), {kTinyEos}, max_output_tokens, with_logprobs);
    ASSERT_TRUE(processor.ok()) << processor.status();
    processor_ = *std::move(processor);
  }

  OutputProcessor::Output Push(int32_t token_id) {
    SampledToken token;
    token.token_id = token_id;
    token.logprob.token_id = token_id;
    auto output = processor_->Process(token);
    EXPECT_TRUE(output.ok()) << output.status();
    return *std::move(output);
  }

  // Pushes until the tokens or the request end; the text of all deltas goes to text_.
  OutputProcessor::Output PushAll(const std::vector<int32_t>& ids) {
    OutputProcessor::Output last;
    for (const int32_t id : ids) {
      last = Push(id);
      text_ += last.delta.text;
      if (last.reason != FinishReason::kNone) break;
    }
    return last;
  }

  std::vector<int32_t> Ids(const std::string& text) { return TinyIds(*tokenizer_, text); }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<OutputProcessor> processor_;
  std::string text_;
};

TEST_F(OutputProcessorTest, TextComesTokenByToken) {
  Start({});
  const std::string text = "The cat sat on the mat.";
  const auto last = PushAll(Ids(text));
  EXPECT_EQ(text_, text);
  EXPECT_EQ(last.reason, FinishReason::kNone);
  EXPECT_EQ(last.delta.token_ids.size(), 1u);
}

TEST_F(OutputProcessorTest, ACharacterIsNeverSplit) {
  Start({});
  const std::string text = "\xF0\x9F\x98\x80 \xE4\xB8\xAD\xE6\x96\x87 caf\xC3\xA9";
  const std::vector<int32_t> ids = Ids(text);
  ASSERT_GT(ids.size(), 6u);  // byte-level tokens: several per character
  bool empty_delta = false;
  for (const int32_t id : ids) {
    const auto output = Push(id);
    empty_delta |= output.delta.text.empty();
    EXPECT_EQ(output.delta.text.find("\xEF\xBF\xBD"), std::string::npos);
    text_ += output.delta.text;
  }
  EXPECT_TRUE(empty_delta);
  EXPECT_EQ(text_, text);
}

TEST_F(OutputProcessorTest, AnUnfinishedCharacterIsGivenOutAtTheEnd) {
  std::vector<int32_t> ids = Ids("a\xF0\x9F\x98\x80");
  ASSERT_GE(ids.size(), 3u);
  ids.pop_back();
  Start({}, static_cast<int32_t>(ids.size()));
  EXPECT_EQ(PushAll(ids).reason, FinishReason::kLength);
  EXPECT_EQ(text_.substr(0, 1), "a");
  EXPECT_NE(text_.find("\xEF\xBF\xBD"), std::string::npos);
}

TEST_F(OutputProcessorTest, AStopStringAcrossTokensIsFoundAndNeverLeaks) {
  StoppingParams stopping;
  stopping.stop = {"sat on"};
  Start(stopping);
  const auto last = PushAll(Ids("The cat sat on the mat."));
  EXPECT_EQ(text_, "The cat ");
  EXPECT_EQ(last.reason, FinishReason::kStop);
  EXPECT_EQ(last.matched_stop, "sat on");
  EXPECT_FALSE(last.matched_stop_token.has_value());
}

TEST_F(OutputProcessorTest, IncludeStopKeepsTheStopAndNothingAfterIt) {
  StoppingParams stopping;
  stopping.stop = {"sat o"};
  stopping.include_stop = true;
  Start(stopping);
  EXPECT_EQ(PushAll(Ids("The cat sat on the mat.")).reason, FinishReason::kStop);
  EXPECT_EQ(text_, "The cat sat o");
}

TEST_F(OutputProcessorTest, HeldTextIsGivenOutWhenTheOutputEnds) {
  StoppingParams stopping;
  stopping.stop = {"mat!"};
  const std::vector<int32_t> ids = Ids("The mat");
  Start(stopping, static_cast<int32_t>(ids.size()));
  EXPECT_EQ(PushAll(ids).reason, FinishReason::kLength);
  EXPECT_EQ(text_, "The mat");
}

TEST_F(OutputProcessorTest, EndOfSequenceStopsWithoutText) {
  Start({});
  std::vector<int32_t> ids = Ids("The end");
  ids.push_back(kTinyEos);
  const auto last = PushAll(ids);
  EXPECT_EQ(text_, "The end");
  EXPECT_EQ(last.reason, FinishReason::kStop);
  EXPECT_EQ(last.matched_stop_token, kTinyEos);
  EXPECT_EQ(last.delta.token_ids, std::vector<int32_t>{kTinyEos});
}

TEST_F(OutputProcessorTest, IgnoreEosGoesOn) {
  StoppingParams stopping;
  stopping.ignore_eos = true;
  Start(stopping);
  EXPECT_EQ(Push(kTinyEos).reason, FinishReason::kNone);
}

TEST_F(OutputProcessorTest, AStopTokensTextIsGivenOutOnlyWithIncludeStop) {
  const int32_t id = Ids("!").at(0);
  StoppingParams stopping;
  stopping.stop_token_ids = {id};
  Start(stopping);
  auto output = Push(id);
  EXPECT_EQ(output.reason, FinishReason::kStop);
  EXPECT_EQ(output.matched_stop_token, id);
  EXPECT_EQ(output.delta.text, "");
  stopping.include_stop = true;
  Start(stopping);
  EXPECT_EQ(Push(id).delta.text, "!");
}

TEST_F(OutputProcessorTest, NothingStopsBeforeMinTokens) {
  const int32_t id = Ids("!").at(0);
  StoppingParams stopping;
  stopping.min_tokens = 3;
  stopping.stop = {"!"};
  stopping.stop_token_ids = {kTinyEos};
  Start(stopping);
  EXPECT_EQ(Push(id).reason, FinishReason::kNone);
  EXPECT_EQ(Push(kTinyEos).reason, FinishReason::kNone);
  const auto output = Push(id);
  EXPECT_EQ(output.reason, FinishReason::kStop);
  EXPECT_EQ(output.matched_stop, "!");
}

TEST_F(OutputProcessorTest, LengthEndsAtMaxTokensAndAStopThereWins) {
  Start({}, 2);
  EXPECT_EQ(Push(5).reason, FinishReason::kNone);
  EXPECT_EQ(Push(5).reason, FinishReason::kLength);
  Start({}, 1);
  EXPECT_EQ(Push(kTinyEos).reason, FinishReason::kStop);
}

TEST_F(OutputProcessorTest, LogprobsComeOnlyWhenAskedFor) {
  Start({});
  EXPECT_TRUE(Push(5).delta.logprobs.empty());
  Start({}, kNoLimit, /*with_logprobs=*/true);
  ASSERT_EQ(Push(5).delta.logprobs.size(), 1u);
}

}  // namespace
}  // namespace spotlight::engine
