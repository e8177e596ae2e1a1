#include "training/hash_file_output.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/round.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/int8_matrix.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"

namespace spotlight::training {
namespace {

constexpr double kMaxInt8 = 127;

struct StoredTensor {
  std::string name;
  at::Tensor values;  // fp32, bf16 or int8; contiguous
};

bool IsLogitScale(const std::string& name) {
  return absl::EndsWith(name, ".logit_scale");
}

// One tensor, or integers and their scales.
std::vector<StoredTensor> Store(const std::string& name, const at::Tensor& tensor, StoredWeights weights) {
  if (IsLogitScale(name)) return {{name, tensor.to(at::kFloat).contiguous()}};
  if (tensor.dim() < 3 || weights == StoredWeights::kBf16) return {{name, tensor.to(at::kBFloat16).contiguous()}};
  const at::Tensor matrix = tensor.to(at::kFloat);
  at::Tensor scale = matrix.abs().amax({1}).div_(kMaxInt8);
  scale.masked_fill_(scale == 0, 1);  // nothing but zeros
  at::Tensor integers = at::round(matrix / scale.unsqueeze(1)).to(at::kChar);
  return {{name, integers.contiguous()}, {name + engine::kScaleSuffix, scale.contiguous()}};
}

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
                           StoredWeights weights, const engine::HashFileMetadata& metadata) {
  std::vector<StoredTensor> stored;
  for (const auto& [name, tensor] : encoders) {
    if (!at::isfinite(tensor).all().item<bool>()) {
      return absl::InternalError(absl::StrCat("training diverged: ", name, " holds a number that is not finite"));
    }
    for (StoredTensor& part : Store(name, tensor, weights)) stored.push_back(std::move(part));
  }
  // The widest elements first: that keeps every tensor aligned to its own.
  std::stable_sort(stored.begin(), stored.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.values.element_size() > b.values.element_size();
  });
  std::vector<engine::SafetensorsWriter::Tensor> tensors;
  for (const StoredTensor& tensor : stored) {
    const at::ScalarType type = tensor.values.scalar_type();
    tensors.push_back({tensor.name, type == at::kFloat ? kernels::DType::kF32 : kernels::DType::kBF16,
                       tensor.values.sizes().vec(), type == at::kChar});
  }
  auto writer = engine::SafetensorsWriter::Create(path, tensors, FormatHashFileMetadata(metadata));
  if (!writer.ok()) return writer.status();
  for (const StoredTensor& tensor : stored) {
    absl::Status status = (*writer)->Append(tensor.values.data_ptr(), tensor.values.nbytes());
    if (!status.ok()) return status;
  }
  return (*writer)->Finish();
}

std::map<std::string, at::Tensor> AsStored(const std::map<std::string, at::Tensor>& encoders, StoredWeights weights) {
  std::map<std::string, at::Tensor> read;
  for (const auto& [name, tensor] : encoders) {
    const std::vector<StoredTensor> parts = Store(name, tensor, weights);
    at::Tensor values = parts.front().values.to(at::kFloat);
    if (parts.size() > 1) values.mul_(parts[1].values.unsqueeze(1));
    read[name] = IsLogitScale(name) ? values : values.to(at::kBFloat16).to(at::kFloat);
  }
  return read;
}

}  // namespace spotlight::training
