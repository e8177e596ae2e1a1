// WriteUntrainedHashFile.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_file_metadata.h"
#include "engine/model/random_stream.h"
#include "engine/model/safetensors_values.h"
#include "engine/model/safetensors_writer.h"

namespace spotlight::engine {
namespace {

// The sizes of the trained recipe, so that the cost is the same.
constexpr int64_t kKeyHidden = 128;
constexpr int64_t kQueryHidden = 256;
constexpr float kSecondLayerDeviation = 1e-3f;

using Matrix = std::vector<float>;  // row-major

// Rows of an orthonormal basis of R^n, drawn by Gram-Schmidt on normal vectors.
Matrix RandomRotation(const RandomStream& stream, uint64_t first_draw, int64_t n) {
  std::vector<double> rows(n * n);
  for (int64_t i = 0; i < n * n; ++i) rows[i] = stream.Normal(first_draw + i);
  for (int64_t r = 0; r < n; ++r) {
    double* row = &rows[r * n];
    // Twice: once leaves rounding errors where a row is nearly in the span of those before it.
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t p = 0; p < r; ++p) {
        const double* previous = &rows[p * n];
        double dot = 0;
        for (int64_t i = 0; i < n; ++i) dot += row[i] * previous[i];
        for (int64_t i = 0; i < n; ++i) row[i] -= dot * previous[i];
      }
    }
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) norm += row[i] * row[i];
    for (int64_t i = 0; i < n; ++i) row[i] /= std::sqrt(norm);
  }
  return Matrix(rows.begin(), rows.end());
}

// [head_dim, bits]: rotations side by side.
Matrix RandomRotations(const RandomStream& stream, int64_t head_dim, int64_t bits) {
  Matrix result(head_dim * bits);
  for (int64_t column = 0; column < bits; column += head_dim) {
    const Matrix rotation = RandomRotation(stream, column * head_dim, head_dim);
    const int64_t width = std::min(head_dim, bits - column);
    for (int64_t row = 0; row < head_dim; ++row) {
      std::copy_n(&rotation[row * head_dim], width, &result[row * bits + column]);
    }
  }
  return result;
}

class UntrainedHashWriter {
 public:
  UntrainedHashWriter(const ModelConfig& config, int64_t bits, uint64_t seed)
      : heads_(config.num_kv_heads),
        group_(config.num_q_heads / config.num_kv_heads),
        head_dim_(config.head_dim),
        bits_(bits),
        seed_(seed) {}

  // In the order in which WriteLayer appends them.
  std::vector<SafetensorsWriter::Tensor> Tensors(int32_t layer) const {
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const bool is_key : {true, false}) {
      const std::string prefix = absl::StrCat("layers.", layer, is_key ? ".key." : ".query.");
      const int64_t in = is_key ? head_dim_ : group_ * head_dim_;
      const int64_t hidden = is_key ? kKeyHidden : kQueryHidden;
      const auto add = [&](const char* name, const std::vector<int64_t>& shape) {
        tensors.push_back({prefix + name, kernels::DType::kBF16, shape});
      };
      add("w1", {heads_, in, hidden});
      add("b1", {heads_, hidden});
      add("w2", {heads_, hidden, bits_});
      add("b2", {heads_, bits_});
      add("skip", {heads_, in, bits_});
    }
    return tensors;
  }

  absl::Status WriteLayer(int32_t layer, SafetensorsWriter& writer) const {
    std::vector<Matrix> rotations;
    for (int64_t head = 0; head < heads_; ++head) {
      const RandomStream stream(seed_, absl::StrCat("layers.", layer, ".rotation.", head));
      rotations.push_back(RandomRotations(stream, head_dim_, bits_));
    }
    absl::Status status;
    for (const bool is_key : {true, false}) {
      const std::string prefix = absl::StrCat("layers.", layer, is_key ? ".key." : ".query.");
      const int64_t in = is_key ? head_dim_ : group_ * head_dim_;
      const int64_t hidden = is_key ? kKeyHidden : kQueryHidden;
      const float deviation = 1 / std::sqrt(static_cast<float>(in));
      status.Update(Append(Normals(prefix + "w1", heads_ * in * hidden, deviation), writer));
      status.Update(Append(Matrix(heads_ * hidden), writer));
      status.Update(Append(Normals(prefix + "w2", heads_ * hidden * bits_, kSecondLayerDeviation), writer));
      status.Update(Append(Matrix(heads_ * bits_), writer));
      for (const Matrix& rotation : rotations) {
        for (int64_t copy = 0; copy < (is_key ? 1 : group_); ++copy) status.Update(Append(rotation, writer));
      }
    }
    return status;
  }

 private:
  Matrix Normals(const std::string& name, int64_t count, float deviation) const {
    const RandomStream stream(seed_, name);
    Matrix values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = stream.Normal(i) * deviation;
    return values;
  }

  static absl::Status Append(const Matrix& values, SafetensorsWriter& writer) {
    std::vector<uint16_t> bf16(values.size());
    std::transform(values.begin(), values.end(), bf16.begin(), ToBf16);
    return writer.Append(bf16.data(), bf16.size() * sizeof(uint16_t));
  }

  int64_t heads_, group_, head_dim_, bits_;
  uint64_t seed_;
};

}  // namespace

absl::Status WriteUntrainedHashFile(const std::string& path, const ModelConfig& config,
                                    const std::string& model_fingerprint, int32_t first_layer, int32_t hash_words,
                                    uint64_t seed) {
  if (first_layer < 0 || first_layer >= config.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_layer: must be in [0, ", config.num_layers - 1, "], is ", first_layer));
  }
  if (hash_words < 1 || hash_words > kernels::kMaxHashWords || !IsHashBits(32 * hash_words)) {
    return absl::InvalidArgumentError(absl::StrCat("hash_words: must be 1, 2, 4 or 8, is ", hash_words));
  }
  HashFileMetadata metadata;
  metadata.hash_bits = 32 * hash_words;
  metadata.num_layers = config.num_layers;
  metadata.num_kv_heads = config.num_kv_heads;
  metadata.group = config.num_q_heads / config.num_kv_heads;
  metadata.head_dim = config.head_dim;
  for (int32_t layer = first_layer; layer < config.num_layers; ++layer) metadata.layers.push_back(layer);
  metadata.model_fingerprint = model_fingerprint;
  metadata.recipe = absl::StrCat("random rotations, seed ", seed);

  const UntrainedHashWriter hash(config, metadata.hash_bits, seed);
  // The fp32 tensors first: that keeps every tensor aligned to its elements.
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const int32_t layer : metadata.layers) {
    tensors.push_back({absl::StrCat("layers.", layer, ".logit_scale"), kernels::DType::kF32, {config.num_kv_heads}});
  }
  for (const int32_t layer : metadata.layers) {
    for (SafetensorsWriter::Tensor& tensor : hash.Tensors(layer)) tensors.push_back(std::move(tensor));
  }
  auto writer = SafetensorsWriter::Create(path, tensors, FormatHashFileMetadata(metadata));
  if (!writer.ok()) return writer.status();
  const std::vector<float> ones(metadata.layers.size() * config.num_kv_heads, 1.0f);
  absl::Status status = (*writer)->Append(ones.data(), ones.size() * sizeof(float));
  for (const int32_t layer : metadata.layers) {
    if (status.ok()) status = hash.WriteLayer(layer, **writer);
  }
  return status.ok() ? (*writer)->Finish() : status;
}

}  // namespace spotlight::engine
