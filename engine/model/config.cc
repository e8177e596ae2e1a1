#include "engine/model/config.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/config_fields.h"
#include "engine/model/rope.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 16 << 20;
// Bounds that no model of today comes near, and that keep every product of two in int64.
constexpr int32_t kMaxHidden = 1 << 20;
constexpr int32_t kMaxIntermediate = 1 << 24;
constexpr int32_t kMaxVocab = 1 << 24;
constexpr int32_t kMaxLayers = 1 << 12;
constexpr int32_t kMaxHeads = 1 << 14;
constexpr int32_t kMaxHeadDim = 1 << 10;
constexpr int32_t kMaxPositions = 1 << 30;

struct Family {
  const char* architecture;
  const char* model_type;
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama"}, {"Qwen2ForCausalLM", "qwen2"}, {"MistralForCausalLM", "mistral"}};

void ReadArchitecture(ConfigFields& fields, ModelConfig& config) {
  std::vector<std::string> supported;
  for (const Family& family : kFamilies) supported.emplace_back(family.architecture);
  const std::string hint = absl::StrCat(" (supported: ", absl::StrJoin(supported, ", "), ")");

  const std::vector<std::string> names = fields.Strings("architectures");
  if (names.size() != 1) {
    return fields.Fail("architectures", absl::StrCat("must name one architecture, names ", names.size(), hint));
  }
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& f) { return names[0] == f.architecture; });
  if (family == std::end(kFamilies)) {
    return fields.Fail("architectures", absl::StrCat(Shown(names[0]), " is not supported", hint));
  }
  const std::string model_type = fields.String("model_type", family->model_type);
  if (model_type != family->model_type) {
    fields.Fail("model_type",
                absl::StrCat("must be \"", family->model_type, "\" for ", names[0], ", is ", Shown(model_type)));
  }
  config.architecture = names[0];
}

// What would be computed wrongly if it were ignored.
void RefuseUnsupported(const json& object, ConfigFields& fields) {
  if (const std::string act = fields.String("hidden_act", "silu"); act != "silu") {
    fields.Fail("hidden_act", absl::StrCat(Shown(act), " is not supported (silu only)"));
  }
  if (fields.Has("quantization_config")) {
    const json& quantization = object["quantization_config"];
    const bool named = quantization.is_object() && quantization.contains("quant_method");
    fields.Fail("quantization_config",
                absl::StrCat("quantised weights (", Shown(named ? quantization["quant_method"] : quantization),
                             ") are not supported; serve the bf16, fp16 or fp32 checkpoint"));
  }
}

void ReadShape(ConfigFields& fields, ModelConfig& config) {
  config.hidden_size = fields.Int("hidden_size", 1, kMaxHidden);
  config.intermediate_size = fields.Int("intermediate_size", 1, kMaxIntermediate);
  config.vocab_size = fields.Int("vocab_size", 1, kMaxVocab);
  config.num_layers = fields.Int("num_hidden_layers", 1, kMaxLayers);
  config.num_q_heads = fields.Int("num_attention_heads", 1, kMaxHeads);
  config.num_kv_heads = fields.Int("num_key_value_heads", 1, kMaxHeads, config.num_q_heads);
  if (!fields.status().ok()) return;
  if (config.num_q_heads % config.num_kv_heads != 0) {
    fields.Fail("num_key_value_heads",
                absl::StrCat("must divide num_attention_heads (", config.num_q_heads, "), is ", config.num_kv_heads));
  }
  if (!fields.Has("head_dim") && config.hidden_size % config.num_q_heads != 0) {
    fields.Fail("head_dim", absl::StrCat("is missing, and hidden_size (", config.hidden_size,
                                         ") is not a multiple of num_attention_heads (", config.num_q_heads, ")"));
  }
  config.head_dim = fields.Int("head_dim", 2, kMaxHeadDim, config.hidden_size / config.num_q_heads);
  if (config.head_dim < 2 || config.head_dim > kMaxHeadDim || config.head_dim % 2 != 0) {
    fields.Fail("head_dim", absl::StrCat("must be even and in [2, ", kMaxHeadDim, "], is ", config.head_dim));
  }
}

void ReadBiases(ConfigFields& fields, ModelConfig& config) {
  // Only Llama's are configurable: Qwen2 has them on q, k and v, Mistral has none.
  if (config.architecture == "LlamaForCausalLM") {
    config.attention_bias = config.attention_output_bias = fields.Bool("attention_bias", false);
    config.mlp_bias = fields.Bool("mlp_bias", false);
  } else if (config.architecture == "Qwen2ForCausalLM") {
    config.attention_bias = true;
  }
}

// The window that some layer applies, 0 without one.
int32_t ActiveWindow(const json& object, ConfigFields& fields, const ModelConfig& config) {
  if (config.architecture == "MistralForCausalLM") {
    if (object.contains("sliding_window")) return fields.Int("sliding_window", 1, kMaxPositions, 0);
    return 4096;  // the family's default; null is how a checkpoint says that there is none
  }
  if (config.architecture != "Qwen2ForCausalLM" || !fields.Bool("use_sliding_window", false)) return 0;
  if (object.contains("sliding_window") && object["sliding_window"].is_null()) return 0;
  const int32_t window = fields.Int("sliding_window", 1, kMaxPositions, 4096);
  if (fields.Has("layer_types")) {
    const std::vector<std::string> types = fields.Strings("layer_types");
    for (const std::string& type : types) {
      if (type != "sliding_attention" && type != "full_attention") {
        fields.Fail("layer_types", absl::StrCat(Shown(type), " is not supported (full_attention, sliding_attention)"));
      }
    }
    return std::count(types.begin(), types.end(), "sliding_attention") > 0 ? window : 0;
  }
  // Layers from max_window_layers on are windowed.
  return fields.Int("max_window_layers", 0, INT32_MAX, 28) < config.num_layers ? window : 0;
}

absl::StatusOr<ModelConfig> ReadConfig(const json& object) {
  ModelConfig config;
  ConfigFields fields(object, "");
  ReadArchitecture(fields, config);
  RefuseUnsupported(object, fields);
  ReadShape(fields, config);
  ReadBiases(fields, config);
  config.rms_norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 0, 1, 1e-6));
  config.tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  const int32_t max_positions = fields.Int("max_position_embeddings", 1, kMaxPositions);
  config.eos_token_ids = fields.IntOrInts("eos_token_id", 0, config.vocab_size - 1);
  config.sliding_window = ActiveWindow(object, fields, config);
  if (!fields.status().ok()) return fields.status();

  absl::StatusOr<Rope> rope = ReadRope(object, config.head_dim, max_positions);
  if (!rope.ok()) return rope.status();
  config.inv_freq = std::move(rope->inv_freq);
  config.rope_scale = rope->scale;
  config.rope_theta = rope->theta;
  config.rope_scaling_json = std::move(rope->scaling_json);
  config.max_context_tokens = rope->max_context_tokens;
  if (config.sliding_window > 0) {
    config.max_context_tokens = std::min(config.max_context_tokens, config.sliding_window);
  }
  return config;
}

absl::Status ReadGenerationConfig(const json& object, ModelConfig& config) {
  ConfigFields fields(object, "");
  if (fields.Has("eos_token_id")) {
    config.eos_token_ids = fields.IntOrInts("eos_token_id", 0, config.vocab_size - 1);
  }
  SamplingParams& sampling = config.default_sampling;
  sampling.temperature = static_cast<float>(fields.Number("temperature", 0, 1e4, 1.0, /*min_allowed=*/true));
  sampling.top_p = static_cast<float>(fields.Number("top_p", 0, 1, 1.0));
  sampling.top_k = fields.Int("top_k", 0, INT32_MAX, 0);
  sampling.min_p = static_cast<float>(fields.Number("min_p", 0, 1, 0.0, /*min_allowed=*/true));
  sampling.repetition_penalty =
      static_cast<float>(fields.Number("repetition_penalty", 0.01, 100, 1.0, /*min_allowed=*/true));
  if (!fields.Bool("do_sample", true)) sampling.temperature = 0.0f;
  return fields.status();
}

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

}  // namespace

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_folder) {
  if (!Exists(model_folder)) return absl::NotFoundError(absl::StrCat(model_folder, ": no such folder"));
  const std::string path = absl::StrCat(model_folder, "/config.json");
  absl::StatusOr<json> object = ReadJsonObject(path, kMaxConfigBytes);
  if (!object.ok()) return object.status();
  absl::StatusOr<ModelConfig> config = ReadConfig(*object);
  if (!config.ok()) return InFile(path, config.status());

  const std::string generation_path = absl::StrCat(model_folder, "/generation_config.json");
  json generation = json::object();
  if (Exists(generation_path)) {
    object = ReadJsonObject(generation_path, kMaxConfigBytes);
    if (!object.ok()) return object.status();
    generation = *std::move(object);
  }
  if (absl::Status status = ReadGenerationConfig(generation, *config); !status.ok()) {
    return InFile(generation_path, status);
  }
  return config;
}

}  // namespace spotlight::engine
