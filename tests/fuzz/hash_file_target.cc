// Input: a hash file for a model of the smallest shape.
#include "engine/model/hash_file.h"

#include <cmath>

#include "engine/model/safetensors_values.h"
#include "tests/engine/model/test_files.h"
#include "tests/fuzz/loader_promises.h"

namespace spotlight::fuzz {
namespace {

constexpr char kFingerprint[] = "0123";  // any text: the model's is compared with the file's

engine::ModelConfig SmallestModel() {
  engine::ModelConfig config;
  config.num_layers = 3;
  config.num_q_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 2;
  return config;
}

void RequireReadable(const engine::TensorView& view) {
  if (view.data == nullptr) return;
  std::vector<float> values(engine::NumElements(view));
  engine::ReadFloats(view, 0, static_cast<int64_t>(values.size()), values.data());
  for (const float value : values) Require(std::isfinite(value), "a hash file's numbers are finite");
}

}  // namespace

bool Accepts(absl::string_view input) {
  static const engine::TempFolder folder;
  static const auto& config = *new engine::ModelConfig(SmallestModel());
  folder.Write(engine::kHashFileName, std::string(input));
  const std::string path = folder.File(engine::kHashFileName);
  // As --hash auto: it returns the model's own file whatever is wrong with it, and one in a folder only when it fits.
  engine::FindHashFile(folder.path(), {}, kFingerprint);
  const bool found = !engine::FindHashFile(folder.path() + "/none", {folder.path()}, kFingerprint).empty();

  const auto hash = engine::LoadHashFile(path, config, kFingerprint, /*allow_untrained=*/true);
  if (!hash.ok()) {
    RequireNamesFile(hash.status(), folder.path());
    return false;
  }
  Require(found == hash->trained, "a file is found where it is this model's and was trained");
  Require(!hash->layers.empty() && hash->hash_words >= 1 && hash->num_planes >= 1, "a hash has layers, words, planes");
  for (const auto& [layer, view] : hash->layers) {
    Require(layer >= 0 && layer < config.num_layers, "a hashed layer is the model's");
    for (const auto* encoder : {&view.key, &view.query}) {
      for (const auto* tensor : {&encoder->w1, &encoder->b1, &encoder->w2, &encoder->b2, &encoder->skip}) {
        RequireReadable(*tensor);
      }
    }
  }
  return true;
}

}  // namespace spotlight::fuzz
