#include "engine/model/tensor_list.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using testing::ElementsAre;

ModelConfig Load(const std::string& text) {
  TempFolder folder;
  folder.Write("config.json", text);
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

std::map<std::string, std::vector<int64_t>> ShapesOf(const ModelConfig& config) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& tensor : RequiredTensors(config)) {
    EXPECT_TRUE(shapes.emplace(tensor.name, tensor.shape).second) << tensor.name << " is listed twice";
  }
  return shapes;
}

// The sizes that the models' authors state.
TEST(TensorListTest, CountsTheParametersOfKnownModels) {
  EXPECT_EQ(NumParameters(Load(kLlama2Config)), 6'738'415'616);
  EXPECT_EQ(NumParameters(Load(kLlama31Config)), 8'030'261'248);
  EXPECT_EQ(NumParameters(Load(kQwen25Config)), 7'615'616'512);
  EXPECT_EQ(NumParameters(Load(kMistralConfig)), 7'241'732'096);
  EXPECT_EQ(NumParameters(Load(kSmolLM2Config)), 134'515'008);
}

TEST(TensorListTest, NamesAndShapesAreThoseOfTransformers) {
  const auto shapes = ShapesOf(Load(kTinyConfig));
  EXPECT_EQ(shapes.size(), 4 * 9 + 3u);
  EXPECT_THAT(shapes.at("model.embed_tokens.weight"), ElementsAre(512, 64));
  EXPECT_THAT(shapes.at("model.layers.3.input_layernorm.weight"), ElementsAre(64));
  EXPECT_THAT(shapes.at("model.layers.3.self_attn.q_proj.weight"), ElementsAre(96, 64));
  EXPECT_THAT(shapes.at("model.layers.3.self_attn.k_proj.weight"), ElementsAre(32, 64));
  EXPECT_THAT(shapes.at("model.layers.3.self_attn.v_proj.weight"), ElementsAre(32, 64));
  EXPECT_THAT(shapes.at("model.layers.3.self_attn.o_proj.weight"), ElementsAre(64, 96));
  EXPECT_THAT(shapes.at("model.layers.3.post_attention_layernorm.weight"), ElementsAre(64));
  EXPECT_THAT(shapes.at("model.layers.3.mlp.gate_proj.weight"), ElementsAre(96, 64));
  EXPECT_THAT(shapes.at("model.layers.3.mlp.up_proj.weight"), ElementsAre(96, 64));
  EXPECT_THAT(shapes.at("model.layers.3.mlp.down_proj.weight"), ElementsAre(64, 96));
  EXPECT_THAT(shapes.at("model.norm.weight"), ElementsAre(64));
  EXPECT_THAT(shapes.at("lm_head.weight"), ElementsAre(512, 64));
}

TEST(TensorListTest, BiasesAndTheHeadAreListedWhereTheConfigHasThem) {
  const auto qwen = ShapesOf(Load(kQwen25Config));
  EXPECT_THAT(qwen.at("model.layers.0.self_attn.q_proj.bias"), ElementsAre(3584));
  EXPECT_THAT(qwen.at("model.layers.0.self_attn.v_proj.bias"), ElementsAre(512));
  EXPECT_EQ(qwen.count("model.layers.0.self_attn.o_proj.bias"), 0u);
  EXPECT_EQ(qwen.count("model.layers.0.mlp.up_proj.bias"), 0u);

  ModelConfig llama = Load(kLlama2Config);
  llama.attention_output_bias = llama.mlp_bias = llama.tie_word_embeddings = true;
  const auto shapes = ShapesOf(llama);
  EXPECT_THAT(shapes.at("model.layers.0.self_attn.o_proj.bias"), ElementsAre(4096));
  EXPECT_THAT(shapes.at("model.layers.0.mlp.gate_proj.bias"), ElementsAre(11008));
  EXPECT_EQ(shapes.count("lm_head.weight"), 0u);
}

}  // namespace
}  // namespace spotlight::engine
