#include "tests/testing/tiny_model.h"

#include <utility>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {
constexpr char kFolder[] = "tests/testdata/tiny-llama";
}

ModelInfo TinyModelInfo() {
  ModelInfo model;
  model.name = "tiny-llama";
  model.architecture = "LlamaForCausalLM";
  model.device = "cpu";
  model.dtype = "fp32";
  model.num_layers = 4;
  model.num_q_heads = 3;
  model.num_kv_heads = 1;
  model.head_dim = 64;
  model.vocab_size = kTinyVocabSize;
  model.max_context_tokens = 8192;
  model.eos_token_ids = {kTinyEos, 509};
  model.default_sampling.temperature = 0.0f;
  model.default_sampling.top_p = 1.0f;
  model.default_sampling.top_k = 0;
  model.default_sampling.min_p = 0.0f;
  model.default_sampling.repetition_penalty = 1.0f;
  return model;
}

ModelInfo TinyHashedModelInfo() {
  ModelInfo model = TinyModelInfo();
  model.hash.present = model.hash.trained = true;
  model.hash.hash_bits = 128;
  model.hash.num_planes = 4;
  model.hash.layers = {2, 3};
  return model;
}

std::unique_ptr<Tokenizer> LoadTinyTokenizer() {
  auto tokenizer = Tokenizer::Load(std::string(kFolder) + "/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::unique_ptr<ChatTemplate> LoadTinyChatTemplate() {
  auto chat_template = ChatTemplate::Load(kFolder);
  EXPECT_TRUE(chat_template.ok()) << chat_template.status();
  return chat_template.ok() ? *std::move(chat_template) : nullptr;
}

std::vector<int32_t> TinyIds(const Tokenizer& tokenizer, absl::string_view text) {
  auto ids = tokenizer.Encode(text, /*add_special_tokens=*/false);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<int32_t>();
}

}  // namespace spotlight::engine
