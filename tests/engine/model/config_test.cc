#include "engine/model/config.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::IsEmpty;

absl::StatusOr<ModelConfig> Load(const std::string& config, const std::string& generation_config = "") {
  TempFolder folder;
  folder.Write("config.json", config);
  if (!generation_config.empty()) folder.Write("generation_config.json", generation_config);
  return LoadModelConfig(folder.path());
}

// `base` with `patch`'s fields over it (a null one removes, as in RFC 7386).
std::string Patched(const char* base, const std::string& patch) {
  json config = json::parse(base);
  config.merge_patch(json::parse(patch));
  return config.dump();
}

TEST(ConfigTest, ReadsLlama2) {
  const absl::StatusOr<ModelConfig> config = Load(kLlama2Config);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->intermediate_size, 11008);
  EXPECT_EQ(config->vocab_size, 32000);
  EXPECT_EQ(config->num_layers, 32);
  EXPECT_EQ(config->num_q_heads, 32);
  EXPECT_EQ(config->num_kv_heads, 32);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->attention_output_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->rope_scaling_json, "null");
  EXPECT_EQ(config->inv_freq.size(), 64u);
  EXPECT_EQ(config->max_context_tokens, 4096);
  EXPECT_EQ(config->sliding_window, 0);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
}

TEST(ConfigTest, ReadsLlama31) {
  const absl::StatusOr<ModelConfig> config = Load(kLlama31Config, kLlama31GenerationConfig);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 8);
  EXPECT_EQ(config->rope_theta, 500000);
  EXPECT_EQ(config->max_context_tokens, 131072);
  EXPECT_EQ(config->rope_scaling_json, R"({"factor":8.0,"high_freq_factor":4.0,"low_freq_factor":1.0,)"
                                       R"("original_max_position_embeddings":8192.0,"rope_type":"llama3"})");
  EXPECT_THAT(config->eos_token_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_FLOAT_EQ(*config->default_sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(*config->default_sampling.top_p, 0.9f);
  EXPECT_EQ(*config->default_sampling.top_k, 0);
  EXPECT_FLOAT_EQ(*config->default_sampling.repetition_penalty, 1);
  EXPECT_FALSE(config->default_sampling.seed.has_value());
}

TEST(ConfigTest, ReadsQwen25) {
  const absl::StatusOr<ModelConfig> config = Load(kQwen25Config, kQwen25GenerationConfig);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Qwen2ForCausalLM");
  EXPECT_EQ(config->num_q_heads, 28);
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_FALSE(config->attention_output_bias);
  EXPECT_EQ(config->rope_theta, 1e6);
  EXPECT_EQ(config->max_context_tokens, 32768);
  EXPECT_EQ(config->sliding_window, 0) << "use_sliding_window is false";
  EXPECT_THAT(config->eos_token_ids, ElementsAre(151645, 151643));
  EXPECT_FLOAT_EQ(*config->default_sampling.temperature, 0.7f);
  EXPECT_EQ(*config->default_sampling.top_k, 20);
  EXPECT_FLOAT_EQ(*config->default_sampling.repetition_penalty, 1.05f);
  EXPECT_EQ(*config->default_sampling.min_p, 0.0f);
}

TEST(ConfigTest, TheGenerationConfigsMinPIsADefault) {
  const absl::StatusOr<ModelConfig> config = Load(kLlama2Config, R"({"min_p": 0.05})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->default_sampling.min_p, 0.05f);
}

TEST(ConfigTest, YarnServesFourTimesTheOriginalContext) {
  const absl::StatusOr<ModelConfig> config =
      Load(Patched(kQwen25Config,
                   R"({"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->max_context_tokens, 131072);
  EXPECT_FLOAT_EQ(config->rope_scale, 0.1 * std::log(4.0) + 1);
}

TEST(ConfigTest, MistralsWindowCapsTheContextUnlessNull) {
  const absl::StatusOr<ModelConfig> first = Load(kMistralConfig);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->architecture, "MistralForCausalLM");
  EXPECT_EQ(first->sliding_window, 4096);
  EXPECT_EQ(first->max_context_tokens, 4096);
  EXPECT_FALSE(first->attention_bias);

  json without = json::parse(kMistralConfig);
  without["sliding_window"] = nullptr;
  EXPECT_EQ(Load(without.dump())->sliding_window, 0);
  EXPECT_EQ(Load(without.dump())->max_context_tokens, 32768);
  without.erase("sliding_window");
  EXPECT_EQ(Load(without.dump())->sliding_window, 4096) << "the family's default";
  without["sliding_window"] = 1 << 20;
  EXPECT_EQ(Load(without.dump())->max_context_tokens, 32768) << "a window never extends the context";
}

TEST(ConfigTest, Qwen2sWindowIsActiveOnlyWhereALayerHasIt) {
  const auto window = [](const std::string& patch) {
    const absl::StatusOr<ModelConfig> config = Load(Patched(kQwen25Config, patch));
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->sliding_window : -1;
  };
  EXPECT_EQ(window(R"({"use_sliding_window": true, "sliding_window": 8192, "max_window_layers": 27})"), 8192);
  EXPECT_EQ(window(R"({"use_sliding_window": true, "sliding_window": 8192, "max_window_layers": 28})"), 0);
  EXPECT_EQ(window(R"({"use_sliding_window": true, "sliding_window": 8192, "max_window_layers": 28,
                       "layer_types": ["full_attention", "sliding_attention"]})"),
            8192);
  EXPECT_EQ(window(R"({"use_sliding_window": true, "sliding_window": 8192, "max_window_layers": 0,
                       "layer_types": ["full_attention"]})"),
            0);
  EXPECT_EQ(window(R"({"use_sliding_window": false, "sliding_window": 8192, "max_window_layers": 0})"), 0);
  json null_window = json::parse(kQwen25Config);
  null_window["use_sliding_window"] = true;
  null_window["max_window_layers"] = 0;
  null_window["sliding_window"] = nullptr;
  EXPECT_EQ(Load(null_window.dump())->sliding_window, 0);
}

TEST(ConfigTest, ReadsSmolLM2WithTiedEmbeddings) {
  const absl::StatusOr<ModelConfig> config = Load(kSmolLM2Config);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->num_q_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->max_context_tokens, 8192);
}

TEST(ConfigTest, HeadDimMayDifferFromHiddenOverHeads) {
  const absl::StatusOr<ModelConfig> config = Load(Patched(kLlama2Config, R"({"head_dim": 64, "hidden_size": 100})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->inv_freq.size(), 32u);
}

TEST(ConfigTest, KeyValueHeadsDefaultToAttentionHeads) {
  EXPECT_EQ(Load(Patched(kQwen25Config, R"({"num_key_value_heads": null})"))->num_kv_heads, 28);
}

TEST(ConfigTest, LlamaMayHaveBiases) {
  const absl::StatusOr<ModelConfig> config =
      Load(Patched(kLlama2Config, R"({"attention_bias": true, "mlp_bias": true})"));
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->attention_output_bias);
  EXPECT_TRUE(config->mlp_bias);
}

TEST(ConfigTest, DefaultsAreThoseOfTransformers) {
  const absl::StatusOr<ModelConfig> config =
      Load(Patched(kLlama2Config,
                   R"({"rms_norm_eps": null, "tie_word_embeddings": null, "hidden_act": null, "eos_token_id": null})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-6f);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_THAT(config->eos_token_ids, IsEmpty());
  EXPECT_FLOAT_EQ(*config->default_sampling.temperature, 1);
  EXPECT_FLOAT_EQ(*config->default_sampling.top_p, 1);
}

TEST(ConfigTest, GenerationConfigWithoutSamplingIsGreedy) {
  EXPECT_EQ(*Load(kLlama2Config, R"({"do_sample": false, "temperature": 0.7})")->default_sampling.temperature, 0);
  EXPECT_FLOAT_EQ(*Load(kLlama2Config, R"({"do_sample": true, "temperature": 0.7})")->default_sampling.temperature,
                  0.7f);
}

TEST(ConfigTest, ConfigsEosHoldsWhereGenerationConfigHasNone) {
  EXPECT_THAT(Load(kLlama2Config, R"({"temperature": 0.7})")->eos_token_ids, ElementsAre(2));
  EXPECT_THAT(Load(kLlama2Config, R"({"eos_token_id": [7, 8]})")->eos_token_ids, ElementsAre(7, 8));
}

struct Refusal {
  const char* base;
  const char* patch;
  const char* message;
};

class ConfigRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(ConfigRefusalTest, NamesTheFileAndTheReason) {
  TempFolder folder;
  const std::string path = folder.Write("config.json", Patched(GetParam().base, GetParam().patch));
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(config.status().message()), path + ": " + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigRefusalTest,
    testing::Values(
        Refusal{kLlama2Config, R"({"architectures": ["GPT2LMHeadModel"]})",
                R"(architectures: "GPT2LMHeadModel" is not supported (supported: LlamaForCausalLM, Qwen2ForCausalLM, )"
                R"(MistralForCausalLM))"},
        Refusal{kLlama2Config, R"({"architectures": null})",
                "architectures: must name one architecture, names 0 (supported: LlamaForCausalLM, Qwen2ForCausalLM, "
                "MistralForCausalLM)"},
        Refusal{kLlama2Config, R"({"architectures": "LlamaForCausalLM"})",
                R"(architectures: must be a list of strings, is "LlamaForCausalLM")"},
        Refusal{kLlama2Config, R"({"architectures": [1]})", "architectures: must be a list of strings, holds 1"},
        Refusal{kLlama2Config, R"({"model_type": "gemma"})",
                R"(model_type: must be "llama" for LlamaForCausalLM, is "gemma")"},
        Refusal{kLlama2Config, R"({"hidden_act": "gelu"})", R"(hidden_act: "gelu" is not supported (silu only))"},
        Refusal{kQwen25Config, R"({"quantization_config": {"quant_method": "gptq", "bits": 4}})",
                R"(quantization_config: quantised weights ("gptq") are not supported; serve the bf16, fp16 or fp32 )"
                "checkpoint"},
        Refusal{kLlama2Config, R"({"hidden_size": null})", "hidden_size: is missing"},
        Refusal{kLlama2Config, R"({"vocab_size": null})", "vocab_size: is missing"},
        Refusal{kLlama2Config, R"({"max_position_embeddings": null})", "max_position_embeddings: is missing"},
        Refusal{kLlama2Config, R"({"hidden_size": -4096})", "hidden_size: must be in [1, 1048576], is -4096"},
        Refusal{kLlama2Config, R"({"hidden_size": 0})", "hidden_size: must be in [1, 1048576], is 0"},
        Refusal{kLlama2Config, R"({"hidden_size": 4096.0})", "hidden_size: must be an integer, is 4096.0"},
        Refusal{kLlama2Config, R"({"hidden_size": "4096"})", R"(hidden_size: must be an integer, is "4096")"},
        Refusal{kLlama2Config, R"({"num_hidden_layers": 18446744073709551615})",
                "num_hidden_layers: must be in [1, 4096], is 18446744073709551615"},
        Refusal{kLlama2Config, R"({"num_hidden_layers": 4294967297})",
                "num_hidden_layers: must be in [1, 4096], is 4294967297"},
        Refusal{kLlama2Config, R"({"num_key_value_heads": 5})",
                "num_key_value_heads: must divide num_attention_heads (32), is 5"},
        Refusal{kLlama2Config, R"({"num_attention_heads": 30, "num_key_value_heads": 30})",
                "head_dim: is missing, and hidden_size (4096) is not a multiple of num_attention_heads (30)"},
        Refusal{kLlama2Config, R"({"head_dim": 65})", "head_dim: must be even and in [2, 1024], is 65"},
        Refusal{kLlama2Config, R"({"head_dim": 2048})", "head_dim: must be in [2, 1024], is 2048"},
        Refusal{kLlama2Config, R"({"hidden_size": 96})", "head_dim: must be even and in [2, 1024], is 3"},
        Refusal{kLlama2Config, R"({"rms_norm_eps": 0})", "rms_norm_eps: must be in (0, 1], is 0"},
        Refusal{kLlama2Config, R"({"tie_word_embeddings": 1})", "tie_word_embeddings: must be true or false, is 1"},
        Refusal{kLlama2Config, R"({"eos_token_id": 32000})", "eos_token_id: must be in [0, 31999], is 32000"},
        Refusal{kLlama2Config, R"({"eos_token_id": [2, -1]})", "eos_token_id: must be in [0, 31999], is -1"},
        Refusal{kLlama2Config, R"({"eos_token_id": "</s>"})", R"(eos_token_id: must be an integer, is "</s>")"},
        Refusal{kMistralConfig, R"({"sliding_window": 0})", "sliding_window: must be in [1, 1073741824], is 0"},
        Refusal{kQwen25Config, R"({"use_sliding_window": true, "layer_types": ["chunked_attention"]})",
                R"(layer_types: "chunked_attention" is not supported (full_attention, sliding_attention))"},
        Refusal{kQwen25Config, R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}})",
                R"(rope_scaling.type: "dynamic" is not supported (default, linear, llama3, yarn))"}));

TEST(ConfigTest, RefusesFilesThatAreMissingOrNotJson) {
  TempFolder folder;
  const auto error = [&folder] { return std::string(LoadModelConfig(folder.path()).status().message()); };
  const std::string path = folder.File("config.json");
  EXPECT_EQ(error(), path + ": cannot be opened");
  EXPECT_TRUE(absl::IsNotFound(LoadModelConfig(folder.path()).status()));
  EXPECT_EQ(LoadModelConfig("/no/such").status().message(), "/no/such: no such folder");
  folder.Write("config.json", "{");
  EXPECT_EQ(error(), path + ": is not JSON");
  folder.Write("config.json", R"({"rms_norm_eps": NaN})");
  EXPECT_EQ(error(), path + ": is not JSON");
  folder.Write("config.json", R"({"rms_norm_eps": 1e999})");
  EXPECT_EQ(error(), path + ": is not JSON");
  folder.Write("config.json", "[]");
  EXPECT_EQ(error(), path + ": is not a JSON object");
  folder.Write("config.json", R"({"a": )" + std::string(100'000, '[') + std::string(100'000, ']') + "}");
  EXPECT_EQ(error(), path + ": nests deeper than 64 levels");
  folder.Write("config.json", std::string((16 << 20) + 1, ' '));
  EXPECT_EQ(error(), path + ": has 16777217 bytes, over the 16777216 that such a file may have");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_EQ(error(), path + ": is not a file");
}

TEST(ConfigTest, RefusesABadGenerationConfigByItsName) {
  TempFolder folder;
  folder.Write("config.json", kLlama2Config);
  const std::string path = folder.File("generation_config.json");
  const auto error = [&folder](const std::string& text) {
    folder.Write("generation_config.json", text);
    return std::string(LoadModelConfig(folder.path()).status().message());
  };
  EXPECT_EQ(error("nothing"), path + ": is not JSON");
  EXPECT_EQ(error(R"({"temperature": -1})"), path + ": temperature: must be in [0, 10000], is -1");
  EXPECT_EQ(error(R"({"top_p": 0})"), path + ": top_p: must be in (0, 1], is 0");
  EXPECT_EQ(error(R"({"top_k": -1})"), path + ": top_k: must be in [0, 2147483647], is -1");
  EXPECT_EQ(error(R"({"repetition_penalty": 0})"), path + ": repetition_penalty: must be in [0.01, 100], is 0");
  EXPECT_EQ(error(R"({"min_p": 1.5})"), path + ": min_p: must be in [0, 1], is 1.5");
  EXPECT_EQ(error(R"({"eos_token_id": [1, 99999]})"), path + ": eos_token_id: must be in [0, 31999], is 99999");
}

}  // namespace
}  // namespace spotlight::engine
