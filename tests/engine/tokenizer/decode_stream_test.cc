#include <random>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tokenizer/golden_file.h"

namespace spotlight::engine {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Whole characters only; surrogates and overlong forms count as broken.
bool IsUtf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
    const unsigned lead = byte(0);
    const size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
    if (length == 0) return false;
    unsigned code = length == 1 ? lead : lead & (0xFF >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      if (byte(k) >> 6 != 2) return false;
      code = code << 6 | (byte(k) & 0x3F);
    }
    constexpr unsigned kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += length;
  }
  return true;
}

class DecodeStreamTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::Load(TestDataPath(std::string(GetParam()) + "/tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // Every piece, the flushed one last.
  std::vector<std::string> Stream(const std::vector<int32_t>& ids, bool skip_special) {
    auto stream = DecodeStream::Create(*tokenizer_, skip_special).value();
    std::vector<std::string> pieces;
    for (int32_t id : ids) pieces.push_back(stream->Step(id).value());
    pieces.push_back(stream->Flush().value());
    return pieces;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

std::string Join(const std::vector<std::string>& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += piece;
  return out;
}

TEST_P(DecodeStreamTest, PiecesOfTextsJoinToTheDecodedText) {
  std::string file = GetParam();
  for (char& c : file) c = c == '-' ? '_' : c;
  for (const auto& golden : ReadGoldenCases("tokenizer_" + file)) {
    const std::vector<int32_t> ids = golden["ids"];
    for (bool skip_special : {false, true}) {
      const std::vector<std::string> pieces = Stream(ids, skip_special);
      for (const std::string& piece : pieces) EXPECT_TRUE(IsUtf8(piece)) << golden["text"];
      EXPECT_EQ(Join(pieces), golden[skip_special ? "decoded_skipping_special" : "decoded"].get<std::string>());
    }
  }
}

// Random ids are mostly noise: lone continuation bytes, unfinished characters, runs of special tokens.
TEST_P(DecodeStreamTest, PiecesOfRandomIdsAreWholeCharactersAndJoinToTheDecodedText) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> any(0, tokenizer_->vocab_size() - 1);
  std::uniform_int_distribution<int32_t> low(0, 300);  // where the byte tokens are
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> ids(300);
    for (int32_t& id : ids) id = round % 2 == 0 ? any(random) : low(random);
    for (bool skip_special : {false, true}) {
      const std::vector<std::string> pieces = Stream(ids, skip_special);
      for (const std::string& piece : pieces) ASSERT_TRUE(IsUtf8(piece));
      ASSERT_EQ(Join(pieces), tokenizer_->Decode(ids, skip_special).value());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecodeStreamTest, testing::Values("smollm2", "tiny-llama", "tiny-qwen2"));

class TinyDecodeStreamTest : public DecodeStreamTest {
 protected:
  std::vector<int32_t> Encode(const std::string& text) { return tokenizer_->Encode(text, false).value(); }
};

TEST_P(TinyDecodeStreamTest, HoldsACharacterUntilItsLastByte) {
  const std::vector<int32_t> ids = Encode("😀");
  ASSERT_EQ(ids.size(), 4u) << "the tiny vocabulary has no emoji, so each byte is a token";
  EXPECT_THAT(Stream(ids, false), testing::ElementsAre("", "", "", "😀", ""));
}

TEST_P(TinyDecodeStreamTest, FlushGivesOutAnUnfinishedCharacterOnce) {
  std::vector<int32_t> ids = Encode("a😀");
  ids.pop_back();
  auto stream = DecodeStream::Create(*tokenizer_, false).value();
  std::string text;
  for (int32_t id : ids) text += stream->Step(id).value();
  EXPECT_EQ(text, "a");
  EXPECT_EQ(stream->Flush().value(), kReplacement);
  EXPECT_EQ(stream->Flush().value(), "");
}

TEST_P(TinyDecodeStreamTest, StartsAnewAfterAFlush) {
  auto stream = DecodeStream::Create(*tokenizer_, false).value();
  EXPECT_EQ(stream->Step(Encode("😀")[0]).value(), "");
  EXPECT_EQ(stream->Flush().value(), kReplacement);
  EXPECT_EQ(stream->Step(Encode("b")[0]).value(), "b");
}

TEST_P(TinyDecodeStreamTest, NoiseIsGivenOutBeforeTheSequenceEnds) {
  const int32_t continuation = Encode("😀")[3];
  auto stream = DecodeStream::Create(*tokenizer_, false).value();
  std::string text;
  for (int i = 0; i < 64; ++i) text += stream->Step(continuation).value();
  EXPECT_GE(text.size(), 48 * (sizeof(kReplacement) - 1));
}

TEST_P(TinyDecodeStreamTest, ACharacterAfterNoiseStaysWhole) {
  const std::vector<int32_t> emoji = Encode("😀");
  for (int noise = 0; noise < 40; ++noise) {
    std::vector<int32_t> ids(noise, emoji[3]);
    ids.insert(ids.end(), emoji.begin(), emoji.end());
    const std::string text = Join(Stream(ids, false));
    EXPECT_EQ(text, tokenizer_->Decode(ids, false).value());
    EXPECT_THAT(text, testing::EndsWith("😀"));
  }
}

TEST_P(TinyDecodeStreamTest, SkippedSpecialTokensGiveNoText) {
  const int32_t end = *tokenizer_->TokenId("<|im_end|>");
  std::vector<int32_t> ids(50, end);
  const std::vector<int32_t> word = Encode("word");
  ids.insert(ids.end(), word.begin(), word.end());
  EXPECT_EQ(Join(Stream(ids, true)), "word");
}

TEST_P(TinyDecodeStreamTest, OutlivesItsTokenizer) {
  const std::vector<int32_t> ids = Encode("你好");
  auto stream = DecodeStream::Create(*tokenizer_, false).value();
  tokenizer_.reset();
  std::string text;
  for (int32_t id : ids) text += stream->Step(id).value();
  EXPECT_EQ(text, "你好");
}

INSTANTIATE_TEST_SUITE_P(All, TinyDecodeStreamTest, testing::Values("tiny-llama", "tiny-qwen2"));

}  // namespace
}  // namespace spotlight::engine
