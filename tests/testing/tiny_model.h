// The tiny Llama checkpoint's facts and text, for tests that need no weights.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/model_info.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

inline constexpr int32_t kTinyVocabSize = 512;
inline constexpr int32_t kTinyEos = 511;  // <|im_end|>; 509 is one as well

// max_context_tokens 8192, two EOS ids, fp32, no hash, greedy by default.
ModelInfo TinyModelInfo();
// With a trained hash on layers 2 and 3.
ModelInfo TinyHashedModelInfo();

// Fail the test and return null when the checkpoint cannot be read.
std::unique_ptr<Tokenizer> LoadTinyTokenizer();
std::unique_ptr<ChatTemplate> LoadTinyChatTemplate();

// Ids without special tokens.
std::vector<int32_t> TinyIds(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace spotlight::engine
