// A checkpoint's tensors, memory-mapped from one or many safetensors files. No torch: names, shapes and bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "kernels/layout.h"

namespace spotlight::engine {

// Bytes inside a mapped file, which the Checkpoint that gave the view keeps open. Not aligned beyond a byte.
struct TensorView {
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t num_bytes = 0;
};

// Thread-compatible; views stay valid as long as it lives.
class SafetensorsFile {
 public:
  // INVALID_ARGUMENT "PATH: reason": truncated, a header that is not JSON or lies about offsets, sizes, shapes or dtypes,
  // overlapping tensors. Tensors of other dtypes than F32, BF16, F16 are refused when asked for, not before.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // NOT_FOUND "PATH: has no tensor NAME".
  absl::StatusOr<TensorView> Find(const std::string& name) const;
  std::vector<std::string> names() const;
  const std::map<std::string, std::string>& metadata() const;  // the header's __metadata__
  const std::string& path() const;
  // Gives the pages of `view` back to the system; it can still be read (from the file again).
  void Release(const TensorView& view) const;

 private:
  struct Mapping;
  explicit SafetensorsFile(std::unique_ptr<Mapping> mapping);
  std::unique_ptr<Mapping> mapping_;
};

// All tensors of a model folder: model.safetensors, or the shards of model.safetensors.index.json.
class Checkpoint {
 public:
  // NOT_FOUND or INVALID_ARGUMENT with the file and the reason.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_folder);
  // NOT_FOUND names the tensor; INVALID_ARGUMENT when its shape is not `shape`.
  absl::StatusOr<TensorView> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  bool Has(const std::string& name) const;
  void Release(const TensorView& view) const;

 private:
  Checkpoint() = default;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t> file_of_;  // tensor name -> index into files_
};

// Identifies a model for its hash file: sha256 (hex) of model.layers.2.self_attn.k_proj.weight as little-endian fp32, then
// rope_theta and rope_scaling. `k_proj` is that tensor.
std::string ModelFingerprint(const TensorView& k_proj, const ModelConfig& config);

}  // namespace spotlight::engine
