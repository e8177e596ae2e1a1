#include "training/hash_file_output.h"

#include <ATen/ops/isfinite.h>

#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"

namespace spotlight::training {
namespace {

std::string EncoderName(const Recipe& recipe) {
  switch (recipe.encoder) {
    case EncoderKind::kZ:
      return "z";
    case EncoderKind::kLinear:
      return "linear";
    case EncoderKind::kPaper:
      break;
  }
  return "paper";
}

}  // namespace

engine::HashFileMetadata HashMetadata(const Recipe& recipe, const engine::ModelConfig& config,
                                      const std::string& model_fingerprint) {
  engine::HashFileMetadata metadata;
  metadata.encoder = EncoderName(recipe);
  metadata.scoring = absl::StrCat(recipe.query == QueryForm::kReal ? "asymmetric" : "symmetric",
                                  recipe.per_query_head ? "-per-query-head" : "");
  metadata.num_planes = recipe.num_planes;
  metadata.plane_step = PlaneStep(recipe.num_planes);
  metadata.hash_bits = recipe.hash_bits;
  metadata.prefix_bits = recipe.prefix_bits;
  metadata.num_layers = config.num_layers;
  metadata.num_kv_heads = config.num_kv_heads;
  metadata.group = config.num_q_heads / config.num_kv_heads;
  metadata.head_dim = config.head_dim;
  for (int32_t layer = recipe.first_layer; layer < config.num_layers; ++layer) metadata.layers.push_back(layer);
  metadata.model_fingerprint = model_fingerprint;
  metadata.trained = true;
  metadata.recipe = FormatRecipe(recipe);
  return metadata;
}

absl::Status CheckReplaceable(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(path, error) || (fs::is_regular_file(path, error) && fs::is_empty(path, error))) {
    return absl::OkStatus();
  }
  if (const auto file = engine::SafetensorsFile::Open(path); file.ok()) {
    const auto format = (*file)->metadata().find("format");
    if (format != (*file)->metadata().end() && absl::StartsWith(format->second, "spotlight-hash-")) {
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": is there and is no hash file; delete it, or give another --out"));
}

absl::Status WriteHashFile(const std::string& path, const std::map<std::string, at::Tensor>& encoders,
                           const engine::HashFileMetadata& metadata) {
  using engine::SafetensorsWriter;
  // The fp32 tensors first: that keeps every tensor aligned to its elements.
  std::vector<SafetensorsWriter::Tensor> tensors;
  std::vector<at::Tensor> values;
  for (const bool is_scale : {true, false}) {
    for (const auto& [name, tensor] : encoders) {
      if (absl::EndsWith(name, ".logit_scale") != is_scale) continue;
      if (!at::isfinite(tensor).all().item<bool>()) {
        return absl::InternalError(absl::StrCat("training diverged: ", name, " holds a number that is not finite"));
      }
      tensors.push_back({name, is_scale ? kernels::DType::kF32 : kernels::DType::kBF16, tensor.sizes().vec()});
      values.push_back(tensor.to(is_scale ? at::kFloat : at::kBFloat16).contiguous());
    }
  }
  auto writer = SafetensorsWriter::Create(path, tensors, FormatHashFileMetadata(metadata));
  if (!writer.ok()) return writer.status();
  for (const at::Tensor& value : values) {
    if (absl::Status status = (*writer)->Append(value.data_ptr(), value.nbytes()); !status.ok()) return status;
  }
  return (*writer)->Finish();
}

}  // namespace spotlight::training
