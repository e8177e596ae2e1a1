// All tensors of a model folder, memory-mapped from one or many safetensors files. No torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/safetensors.h"

namespace spotlight::engine {

// Thread-compatible; views stay valid as long as it lives.
class Checkpoint {
 public:
  // Opens model.safetensors or, where there is none, the shards that model.safetensors.index.json names, and checks
  // every header. NOT_FOUND or INVALID_ARGUMENT "PATH: reason": nothing to open, a shard that is missing or broken or
  // lacks a tensor that the index puts there, a shard name that leaves the folder.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_folder);

  // NOT_FOUND names the tensor; INVALID_ARGUMENT when its shape is not `shape`.
  absl::StatusOr<TensorView> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  bool Has(const std::string& name) const;
  std::vector<std::string> names() const;  // sorted
  void Release(const TensorView& view) const;

 private:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status OpenShards(const std::string& index_path);

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t> file_of_;  // tensor name -> index into files_
};

}  // namespace spotlight::engine
