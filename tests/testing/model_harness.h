// A model without an engine around it: prompts in, logits out, one sequence at a time. For golden and parity tests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "engine/model/hash_file.h"
#include "engine/model/tensor_source.h"
#include "engine/ops/spotlight_attention.h"

namespace spotlight::testing {

struct HarnessOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  engine::Quantization quantization = engine::Quantization::kNone;
  bool e4m3_cache = false;
  std::string hash_path;  // an untrained hash file; empty: dense
  int32_t max_context = 2048;
  int32_t chunk_tokens = 512;  // prompts are prefilled in chunks of this many
};

class ModelHarness {
 public:
  static absl::StatusOr<std::unique_ptr<ModelHarness>> Create(const std::string& folder, const HarnessOptions& options);

  // Starts a new sequence; the logits after its last token.
  absl::StatusOr<std::vector<float>> Prefill(const std::vector<int32_t>& token_ids);
  // Appends one token; the logits after it. num_select: K of a sparse row, 0: dense.
  absl::StatusOr<std::vector<float>> Decode(int32_t token_id, int32_t num_select = 0);
  // The `count` tokens that greedy decoding gives after a prompt.
  absl::StatusOr<std::vector<int32_t>> Greedy(const std::vector<int32_t>& prompt, int32_t count);

  const engine::ModelConfig& config() const { return config_; }
  const std::string& fingerprint() const { return fingerprint_; }
  int32_t length() const { return length_; }

 private:
  absl::StatusOr<std::vector<float>> Step(const std::vector<int32_t>& token_ids, bool decode, int32_t num_select);

  HarnessOptions options_;
  engine::ModelConfig config_;
  std::string fingerprint_;
  std::unique_ptr<engine::Checkpoint> checkpoint_;
  std::unique_ptr<engine::TensorSource> source_;
  engine::HashFile hash_file_;
  std::map<int32_t, engine::LayerHash> hashes_;
  std::unique_ptr<engine::Decoder> decoder_;
  std::unique_ptr<engine::KvCache> cache_;
  std::unique_ptr<engine::SpotlightAttention> attention_;
  int32_t length_ = 0;
};

int32_t ArgMax(const std::vector<float>& logits);

// Writes an untrained hash of the model in `folder`, layers from 2 on, to `path`: it finds what matters by chance.
absl::Status WriteUntrainedHash(const std::string& folder, const std::string& path);

}  // namespace spotlight::testing
