#include "engine/model/fingerprint.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/random_weights.h"
#include "engine/model/safetensors_values.h"
#include "engine/model/sha256.h"
#include "engine/model/tensor_list.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

constexpr int64_t kBlockElements = 1 << 14;

std::string KeyProjectionName() {
  return LayerTensorName(kFingerprintLayer, "self_attn.k_proj.weight");
}

std::vector<int64_t> KeyProjectionShape(const ModelConfig& config) {
  return {int64_t{config.num_kv_heads} * config.head_dim, config.hidden_size};
}

absl::Status CheckHasLayer(const ModelConfig& config) {
  if (config.num_layers > kFingerprintLayer) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a model of ", config.num_layers, " layers has no fingerprint: it needs at least ", kFingerprintLayer + 1));
}

}  // namespace

std::string ModelFingerprint(const TensorView& k_proj, const ModelConfig& config) {
  Sha256 sha256;
  std::vector<float> block(kBlockElements);
  const int64_t num_elements = NumElements(k_proj);
  for (int64_t begin = 0; begin < num_elements; begin += kBlockElements) {
    const int64_t end = std::min(begin + kBlockElements, num_elements);
    ReadFloats(k_proj, begin, end, block.data());
    sha256.Add(block.data(), (end - begin) * sizeof(float));
  }
  const std::string text = absl::StrCat("\nrope_theta=", nlohmann::json(config.rope_theta).dump(),
                                        "\nrope_scaling=", config.rope_scaling_json, "\n");
  sha256.Add(text.data(), text.size());
  return sha256.Hex();
}

absl::StatusOr<std::string> CheckpointFingerprint(const Checkpoint& checkpoint, const ModelConfig& config) {
  if (absl::Status status = CheckHasLayer(config); !status.ok()) return status;
  const absl::StatusOr<TensorView> k_proj = checkpoint.Find(KeyProjectionName(), KeyProjectionShape(config));
  if (!k_proj.ok()) return k_proj.status();
  const std::string fingerprint = ModelFingerprint(*k_proj, config);
  checkpoint.Release(*k_proj);
  return fingerprint;
}

absl::StatusOr<std::string> RandomWeightsFingerprint(const ModelConfig& config, uint64_t seed) {
  if (absl::Status status = CheckHasLayer(config); !status.ok()) return status;
  TensorView k_proj;
  k_proj.dtype = kernels::DType::kBF16;
  k_proj.shape = KeyProjectionShape(config);
  std::vector<uint16_t> values(k_proj.shape[0] * k_proj.shape[1]);
  FillRandomWeightsBf16(KeyProjectionName(), seed, 0, static_cast<int64_t>(values.size()), values.data());
  k_proj.data = reinterpret_cast<const std::byte*>(values.data());
  k_proj.num_bytes = values.size() * sizeof(uint16_t);
  return ModelFingerprint(k_proj, config);
}

}  // namespace spotlight::engine
