// Token embeddings. On the CPU a checkpoint's table stays in its mapped file: a step reads a few rows of it, and a tied
// output head has its own packed copy.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/tensor_source.h"
#include "engine/model/weight_loader.h"

namespace spotlight::engine {

// Thread-compatible.
class Embedding {
 public:
  // `source`, which is the loader's, outlives the embedding.
  static absl::StatusOr<Embedding> Load(TensorSource* source, WeightLoader* loader, const std::string& name,
                                        int64_t vocab_size, int64_t hidden_size, at::ScalarType dtype,
                                        at::Device device);

  // token_ids [T] int32 on the device, each in [0, vocab_size) -> [T, hidden].
  at::Tensor operator()(const at::Tensor& token_ids) const;

  // [vocab, hidden]; undefined where the table stays in its file.
  const at::Tensor& table() const { return table_; }

 private:
  TensorView mapped_;  // CPU; data is null when `table_` holds the rows
  at::Tensor table_;   // [vocab, hidden]
  int64_t hidden_size_ = 0;
  at::ScalarType dtype_ = at::kFloat;
};

}  // namespace spotlight::engine
