// Input: tokenizer.json. What is accepted must encode and decode, or refuse to, as a server asks it to.
#include "engine/tokenizer/tokenizer.h"

#include <vector>

#include "engine/prompt_encoder.h"
#include "tests/engine/model/test_files.h"
#include "tests/fuzz/loader_promises.h"

namespace spotlight::fuzz {
namespace {

const std::vector<std::string>& Texts() {
  static const auto& texts = *new std::vector<std::string>{"",
                                                           "a",
                                                           "Hello, world! 12345",
                                                           " \n\t  spaced  out ",
                                                           "e\xcc\x81 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80",
                                                           "<|begin|><s></s>[UNK]",
                                                           std::string("\0\x7f", 2),
                                                           std::string(300, 'x')};
  return texts;
}

void Decode(const engine::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (const bool skip_special : {false, true}) {
    (void)tokenizer.Decode(ids, skip_special);
    const auto stream = engine::DecodeStream::Create(tokenizer, skip_special);
    Require(stream.ok(), "a decode stream can be made");
    for (const int32_t id : ids) (void)(*stream)->Step(id);
    (void)(*stream)->Flush();
  }
}

}  // namespace

bool Accepts(absl::string_view input) {
  static const engine::TempFolder folder;
  folder.Write("tokenizer.json", std::string(input));
  const auto tokenizer = engine::Tokenizer::Load(folder.File("tokenizer.json"));
  if (!tokenizer.ok()) {
    RequireNamesFile(tokenizer.status(), folder.path());
    return false;
  }
  Require((*tokenizer)->vocab_size() >= 1, "there is a vocabulary");
  (*tokenizer)->TokenId("<s>");
  for (const std::string& text : Texts()) {
    for (const bool add_special : {false, true}) {
      const auto ids = (*tokenizer)->Encode(text, add_special);
      if (ids.ok()) Decode(**tokenizer, *ids);
    }
  }
  Decode(**tokenizer, {0, 1, 2, 3, 255, 256, -1, INT32_MAX, INT32_MIN});

  // What a long prompt is asked before it waits for a thread.
  engine::PromptEncoder encoder(tokenizer->get(), nullptr, /*max_prompt_tokens=*/1 << 20);
  const engine::Prompt prompt = engine::TextPrompt{std::string(20000, 'y')};
  (void)encoder.CheckSize(prompt);
  Require(encoder.MinTokens(prompt) >= 0, "tokens are counted up");
  return true;
}

}  // namespace spotlight::fuzz
