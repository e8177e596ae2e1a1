#include "training/evaluation/selectors/evaluated_hash.h"

#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/model/hash_file.h"
#include "engine/model/int8_matrix.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_values.h"

namespace spotlight::training {
namespace {

constexpr char kPerQueryHead[] = "-per-query-head";

absl::Status InFile(const std::string& path, const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", reason));
}

// Kinds that are never served differ in these two entries alone, so that the rest is checked as the server does.
absl::StatusOr<engine::HashFileMetadata> ParseMetadata(std::map<std::string, std::string> entries) {
  const std::string encoder = entries["encoder"], scoring = entries["scoring"];
  if (encoder == "paper") entries["encoder"] = "z";
  absl::string_view form = scoring;
  absl::ConsumeSuffix(&form, kPerQueryHead);
  if (form == "symmetric" || form == "asymmetric") entries["scoring"] = "asymmetric";
  auto metadata = engine::ParseHashFileMetadata(entries);
  if (metadata.ok()) {
    metadata->encoder = encoder;
    metadata->scoring = scoring;
  }
  return metadata;
}

absl::Status CheckModel(const engine::HashFileMetadata& metadata, const engine::ModelConfig& config,
                        const std::string& model_fingerprint) {
  if (metadata.model_fingerprint != model_fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat("was made for another model: its model_fingerprint is ",
                                                   metadata.model_fingerprint, ", this model's is ",
                                                   model_fingerprint));
  }
  const bool same_shape = metadata.num_layers == config.num_layers && metadata.num_kv_heads == config.num_kv_heads &&
                          metadata.group == config.num_q_heads / config.num_kv_heads &&
                          metadata.head_dim == config.head_dim;
  return same_shape ? absl::OkStatus() : absl::InvalidArgumentError("was made for a model of another shape");
}

// Takes tensors out of a file, by layer and side.
class EncoderReader {
 public:
  EncoderReader(const engine::SafetensorsFile& file, at::Device device) : file_(file), device_(device) {}

  absl::StatusOr<HashEncoder> Read(const std::string& prefix, int64_t units, int64_t in, int64_t bits) {
    const auto has = [&](const char* name) { return file_.Has(prefix + name); };
    dtype_ = engine::DequantisedType(file_, prefix + "b2");
    if (!has("skip") && !has("w2")) return absl::InvalidArgumentError(absl::StrCat("has no tensor ", prefix, "skip"));
    HashEncoder encoder;
    absl::Status status;
    if (has("w1") || has("w2")) {
      Take(prefix + "w1", {units, in, -1}, &encoder.w1, &status);
      const int64_t hidden = status.ok() ? encoder.w1.size(2) : 0;
      Take(prefix + "b1", {units, hidden}, &encoder.b1, &status);
      Take(prefix + "w2", {units, hidden, bits}, &encoder.w2, &status);
    }
    if (has("b2")) Take(prefix + "b2", {units, bits}, &encoder.b2, &status);
    if (has("skip")) Take(prefix + "skip", {units, in, bits}, &encoder.skip, &status);
    if (!status.ok()) return status;
    return encoder;
  }

  // [units, 1, 1].
  absl::StatusOr<at::Tensor> ReadScale(const std::string& name, int64_t units) {
    at::Tensor scale;
    absl::Status status;
    Take(name, {units}, &scale, &status);
    if (!status.ok()) return status;
    return scale.view({units, 1, 1});
  }

 private:
  // Vectors come as [U, 1, n]. -1: any size. Does nothing after an error.
  void Take(const std::string& name, const std::vector<int64_t>& shape, at::Tensor* out, absl::Status* status) {
    if (!status->ok()) return;
    engine::DequantisedMatrix dequantised;
    absl::StatusOr<engine::TensorView> view = file_.Find(name);
    if (shape.size() == 3 && file_.HasInt8(name)) {
      auto read = engine::ReadInt8Matrix(file_, name, dtype_);
      if (!read.ok()) {
        *status = read.status();
        return;
      }
      dequantised = *std::move(read);
      view = dequantised.view;
    }
    if (!view.ok()) {
      *status = absl::InvalidArgumentError(absl::StrCat("has no tensor ", name, " in F32, BF16 or, a matrix, I8"));
      return;
    }
    bool matches = view->shape.size() == shape.size();
    for (size_t i = 0; matches && i < shape.size(); ++i) {
      matches = shape[i] < 0 ? view->shape[i] > 0 : view->shape[i] == shape[i];
    }
    if (!matches) {
      *status = absl::InvalidArgumentError(absl::StrCat("tensor ", name, " has shape ", engine::ShapeText(view->shape),
                                                        ", must be ", engine::ShapeText(shape), " (-1: any)"));
      return;
    }
    at::Tensor values = at::empty(view->shape, at::TensorOptions().dtype(at::kFloat));
    engine::ReadFloats(*view, 0, values.numel(), values.data_ptr<float>());
    if (!std::isfinite(values.sum(at::kDouble).item<double>())) {
      *status = absl::InvalidArgumentError(absl::StrCat("tensor ", name, " holds a number that is not finite"));
      return;
    }
    *out = (shape.size() == 2 ? values.unsqueeze(1) : values).to(device_);
  }

  const engine::SafetensorsFile& file_;
  const at::Device device_;
  kernels::DType dtype_ = kernels::DType::kBF16;  // that 8-bit matrices are served in
};

absl::Status ReadLayers(const engine::SafetensorsFile& file, const engine::ModelConfig& config, at::Device device,
                        EvaluatedHash* hash) {
  const int64_t head_dim = config.head_dim, bits = hash->metadata.hash_bits;
  const int64_t units = hash->by_query_head ? config.num_q_heads : config.num_kv_heads;
  const int64_t query_heads = hash->symmetric || hash->by_query_head ? 1 : hash->metadata.group;
  EncoderReader reader(file, device);
  for (const int32_t layer : hash->metadata.layers) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    auto key = reader.Read(prefix + "key.", units, head_dim, bits);
    if (!key.ok()) return key.status();
    auto query = reader.Read(prefix + "query.", units, query_heads * head_dim, bits);
    if (!query.ok()) return query.status();
    auto scale = reader.ReadScale(prefix + "logit_scale", units);
    if (!scale.ok()) return scale.status();
    hash->layers[layer] = {*std::move(key), *std::move(query), *std::move(scale)};
  }
  return absl::OkStatus();
}

}  // namespace

at::Tensor Encode(const HashEncoder& encoder, const at::Tensor& x) {
  at::Tensor h;
  if (encoder.w1.defined()) {
    h = at::bmm(at::silu(at::baddbmm(encoder.b1, x, encoder.w1)), encoder.w2);
    if (encoder.skip.defined()) h.baddbmm_(x, encoder.skip);
  } else {
    h = at::bmm(x, encoder.skip);
  }
  return encoder.b2.defined() ? h.add_(encoder.b2) : h;
}

absl::StatusOr<EvaluatedHash> LoadEvaluatedHash(const std::string& path, const engine::ModelConfig& config,
                                                const std::string& model_fingerprint, at::Device device) {
  auto file = engine::SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  auto metadata = ParseMetadata((*file)->metadata());
  if (!metadata.ok()) return InFile(path, std::string(metadata.status().message()));
  EvaluatedHash hash;
  hash.path = path;
  hash.metadata = *std::move(metadata);
  hash.symmetric = absl::StartsWith(hash.metadata.scoring, "symmetric");
  hash.by_query_head = absl::EndsWith(hash.metadata.scoring, kPerQueryHead);
  if (hash.metadata.encoder != "paper" && hash.metadata.scoring == "asymmetric") {
    auto served = engine::LoadHashFile(path, config, model_fingerprint, /*allow_untrained=*/true);
    if (!served.ok()) return served.status();
  }
  absl::Status status = CheckModel(hash.metadata, config, model_fingerprint);
  if (status.ok()) status = ReadLayers(**file, config, device, &hash);
  if (!status.ok()) return InFile(path, std::string(status.message()));
  return hash;
}

}  // namespace spotlight::training
