#include "engine/model/hash_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "engine/model/hash_file_metadata.h"
#include "engine/model/safetensors_values.h"

namespace spotlight::engine {
namespace {

// Hidden sizes that the kernels take: multiples of kHiddenStep up to kMaxHidden.
constexpr int64_t kHiddenStep = 16;
constexpr int64_t kMaxHidden = 4096;
constexpr int64_t kBlockElements = 1 << 14;

absl::Status CheckMatches(const HashFileMetadata& metadata, const ModelConfig& config,
                          const std::string& model_fingerprint) {
  if (metadata.model_fingerprint != model_fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat("was made for another model: its model_fingerprint is ",
                                                   metadata.model_fingerprint, ", this model's is ",
                                                   model_fingerprint));
  }
  const auto check = [](const char* key, int32_t found, int32_t wanted) {
    return found == wanted
               ? absl::OkStatus()
               : absl::InvalidArgumentError(absl::StrCat("metadata ", key, ": is ", found, ", the model has ", wanted));
  };
  absl::Status status = check("num_layers", metadata.num_layers, config.num_layers);
  status.Update(check("num_kv_heads", metadata.num_kv_heads, config.num_kv_heads));
  status.Update(check("group", metadata.group, config.num_q_heads / config.num_kv_heads));
  status.Update(check("head_dim", metadata.head_dim, config.head_dim));
  return status;
}

// Takes tensors out of the file, remembering which: those left over at the end were never announced.
class TensorReader {
 public:
  // 8-bit matrices become `dtype` and are kept in `dequantised`.
  TensorReader(const SafetensorsFile& file, kernels::DType dtype, std::vector<DequantisedMatrix>* dequantised)
      : file_(file), dtype_(dtype), dequantised_(*dequantised) {
    for (std::string& name : file.names()) left_.insert(std::move(name));
  }

  // -1 in `shape`: any hidden size. `name` is not in messages' file prefix: the caller's file is.
  absl::StatusOr<TensorView> Take(const std::string& name, const std::vector<int64_t>& shape) {
    if (left_.erase(name) == 0) return absl::InvalidArgumentError(absl::StrCat("has no tensor ", name));
    absl::StatusOr<TensorView> view = Read(name, shape.size() == 3);
    if (!view.ok()) return view.status();
    bool matches = view->shape.size() == shape.size();
    for (size_t i = 0; matches && i < shape.size(); ++i) {
      matches = shape[i] < 0 ? IsHidden(view->shape[i]) : view->shape[i] == shape[i];
    }
    if (!matches) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, " has shape ", ShapeText(view->shape), ", must be ", ShapeText(shape),
                       absl::StrCat(" (-1: a multiple of ", kHiddenStep, " up to ", kMaxHidden, ")")));
    }
    if (absl::Status status = CheckFinite(name, *view); !status.ok()) return status;
    return view;
  }

  absl::Status CheckNothingLeft() const {
    if (left_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("has tensor ", *left_.begin(), ", which its metadata does not announce"));
  }

 private:
  absl::StatusOr<TensorView> Read(const std::string& name, bool is_matrix) {
    if (is_matrix && file_.HasInt8(name)) {
      absl::StatusOr<DequantisedMatrix> matrix = ReadInt8Matrix(file_, name, dtype_);
      if (!matrix.ok()) return matrix.status();
      left_.erase(name + kScaleSuffix);
      dequantised_.push_back(*std::move(matrix));
      return dequantised_.back().view;
    }
    absl::StatusOr<TensorView> view = file_.Find(name);
    if (view.ok()) return view;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, is_matrix ? " is not F32, BF16 or I8" : " is not F32 or BF16"));
  }

  static bool IsHidden(int64_t size) { return size >= kHiddenStep && size <= kMaxHidden && size % kHiddenStep == 0; }

  static absl::Status CheckFinite(const std::string& name, const TensorView& view) {
    std::vector<float> block(kBlockElements);
    const int64_t num_elements = NumElements(view);
    for (int64_t begin = 0; begin < num_elements; begin += kBlockElements) {
      const int64_t end = std::min(begin + kBlockElements, num_elements);
      ReadFloats(view, begin, end, block.data());
      for (int64_t i = 0; i < end - begin; ++i) {
        if (!std::isfinite(block[i])) {
          return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " holds a number that is not finite"));
        }
      }
    }
    return absl::OkStatus();
  }

  const SafetensorsFile& file_;
  const kernels::DType dtype_;
  std::vector<DequantisedMatrix>& dequantised_;
  std::set<std::string> left_;
};

absl::Status ReadEncoder(const std::string& prefix, const HashFileMetadata& metadata, int64_t in, TensorReader& reader,
                         LayerHashView::Encoder& encoder) {
  const int64_t heads = metadata.num_kv_heads;
  const int64_t bits = metadata.hash_bits;
  const auto take = [&](const char* name, const std::vector<int64_t>& shape, TensorView& view) {
    absl::StatusOr<TensorView> taken = reader.Take(prefix + name, shape);
    if (taken.ok()) view = *std::move(taken);
    return taken.status();
  };
  if (metadata.encoder == "z") {
    if (absl::Status status = take("w1", {heads, in, -1}, encoder.w1); !status.ok()) return status;
    const int64_t hidden = encoder.w1.shape[2];
    encoder.hidden = static_cast<int32_t>(hidden);
    if (absl::Status status = take("b1", {heads, hidden}, encoder.b1); !status.ok()) return status;
    if (absl::Status status = take("w2", {heads, hidden, bits}, encoder.w2); !status.ok()) return status;
  }
  if (absl::Status status = take("b2", {heads, bits}, encoder.b2); !status.ok()) return status;
  return take("skip", {heads, in, bits}, encoder.skip);
}

absl::Status ReadLayer(int32_t layer, const HashFileMetadata& metadata, TensorReader& reader, LayerHashView& view) {
  const std::string prefix = absl::StrCat("layers.", layer, ".");
  const int64_t head_dim = metadata.head_dim;
  absl::Status status = ReadEncoder(prefix + "key.", metadata, head_dim, reader, view.key);
  if (!status.ok()) return status;
  status = ReadEncoder(prefix + "query.", metadata, metadata.group * head_dim, reader, view.query);
  if (!status.ok()) return status;
  const std::string scale_name = prefix + "logit_scale";
  const absl::StatusOr<TensorView> scale = reader.Take(scale_name, {metadata.num_kv_heads});
  if (!scale.ok()) return scale.status();
  if (scale->dtype != kernels::DType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", scale_name, " is not F32"));
  }
  view.logit_scale.resize(metadata.num_kv_heads);
  ReadFloats(*scale, 0, metadata.num_kv_heads, view.logit_scale.data());
  for (const float value : view.logit_scale) {
    if (value <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", scale_name, " must be positive, holds ", value));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOneDtype(const HashFile& hash) {
  for (const auto& [layer, view] : hash.layers) {
    for (const LayerHashView::Encoder* encoder : {&view.key, &view.query}) {
      for (const TensorView* tensor : {&encoder->w1, &encoder->b1, &encoder->w2, &encoder->b2, &encoder->skip}) {
        if (tensor->data == nullptr) continue;
        if (tensor->dtype == kernels::DType::kF16 || tensor->dtype != hash.dtype) {
          return absl::InvalidArgumentError(
              absl::StrCat("layer ", layer, ": all encoder tensors but I8 matrices must be BF16 or all F32"));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ReadHashFile(const ModelConfig& config, const std::string& model_fingerprint, HashFile& hash) {
  const absl::StatusOr<HashFileMetadata> metadata = ParseHashFileMetadata(hash.file->metadata());
  if (!metadata.ok()) return metadata.status();
  if (absl::Status status = CheckMatches(*metadata, config, model_fingerprint); !status.ok()) return status;
  hash.dtype = DequantisedType(*hash.file, absl::StrCat("layers.", metadata->layers.front(), ".key.b2"));
  TensorReader reader(*hash.file, hash.dtype, &hash.dequantised);
  for (const int32_t layer : metadata->layers) {
    if (absl::Status status = ReadLayer(layer, *metadata, reader, hash.layers[layer]); !status.ok()) return status;
  }
  if (absl::Status status = reader.CheckNothingLeft(); !status.ok()) return status;
  hash.hash_words = metadata->hash_bits / 32;
  hash.num_planes = metadata->num_planes;
  hash.plane_step = metadata->plane_step;
  hash.prefix_bits = metadata->prefix_bits;
  hash.trained = metadata->trained;
  hash.model_fingerprint = metadata->model_fingerprint;
  return CheckOneDtype(hash);
}

enum class Match { kUnreadable, kNo, kYes };

Match MatchOf(const std::string& path, const std::string& model_fingerprint) {
  const absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(path);
  if (!file.ok()) return Match::kUnreadable;
  const absl::StatusOr<HashFileMetadata> metadata = ParseHashFileMetadata((*file)->metadata());
  if (!metadata.ok()) return Match::kUnreadable;
  return metadata->trained && metadata->model_fingerprint == model_fingerprint ? Match::kYes : Match::kNo;
}

}  // namespace

absl::StatusOr<HashFile> LoadHashFile(const std::string& path, const ModelConfig& config,
                                      const std::string& model_fingerprint, bool allow_untrained) {
  HashFile hash;
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  hash.file = *std::move(file);
  if (absl::Status status = ReadHashFile(config, model_fingerprint, hash); !status.ok()) return InFile(path, status);
  if (!hash.trained && !allow_untrained) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": trained = false: what it retrieves is meaningless; --allow-untrained-hash loads it all the same"));
  }
  return hash;
}

std::string FindHashFile(const std::string& model_folder, const std::vector<std::string>& folders,
                         const std::string& model_fingerprint) {
  namespace fs = std::filesystem;
  std::error_code error;  // what cannot be listed holds nothing for us
  const std::string own = absl::StrCat(model_folder, "/", kHashFileName);
  if (fs::exists(own, error) && MatchOf(own, model_fingerprint) != Match::kNo) return own;
  for (const std::string& folder : folders) {
    std::vector<std::string> paths;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      if (it->path().extension() == ".safetensors") paths.push_back(it->path().string());
    }
    std::sort(paths.begin(), paths.end());
    for (const std::string& path : paths) {
      if (MatchOf(path, model_fingerprint) != Match::kYes) continue;
      // Among a built program's runfiles lie links: where they lead says more to whoever reads the log.
      const fs::path target = fs::canonical(path, error);
      return fs::is_symlink(path, error) && !target.empty() ? target.string() : path;
    }
  }
  return "";
}

}  // namespace spotlight::engine
