// Input: config.json; behind a NUL, where there is one, generation_config.json.
#include <cmath>

#include "engine/model/config.h"
#include "engine/model/tensor_list.h"
#include "tests/engine/model/test_files.h"
#include "tests/fuzz/loader_promises.h"

namespace spotlight::fuzz {

bool Accepts(absl::string_view input) {
  static const engine::TempFolder folder;
  const size_t end = input.find('\0');
  folder.Write("config.json", std::string(input.substr(0, end)));
  std::filesystem::remove(folder.File("generation_config.json"));
  if (end != absl::string_view::npos) folder.Write("generation_config.json", std::string(input.substr(end + 1)));

  const auto config = engine::LoadModelConfig(folder.path());
  if (!config.ok()) {
    RequireNamesFile(config.status(), folder.path());
    return false;
  }
  Require(config->inv_freq.size() == config->head_dim / 2u, "there is a frequency for each pair of a head");
  for (const float frequency : config->inv_freq) Require(std::isfinite(frequency), "frequencies are finite");
  Require(std::isfinite(config->rope_scale), "the scale of positions is finite");
  Require(config->num_q_heads % config->num_kv_heads == 0, "groups of heads are whole");
  Require(config->max_context_tokens >= 1, "there is a context");
  for (const int32_t id : config->eos_token_ids)
    Require(id >= 0 && id < config->vocab_size, "ids are in the vocabulary");
  const engine::SamplingParams& sampling = config->default_sampling;
  Require(*sampling.temperature >= 0 && *sampling.top_p > 0 && *sampling.top_k >= 0 && *sampling.min_p >= 0 &&
              *sampling.repetition_penalty > 0,
          "the defaults of sampling could be a request's");
  Require(engine::NumParameters(*config) > 0, "parameters can be counted");
  return true;
}

}  // namespace spotlight::fuzz
