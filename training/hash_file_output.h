// A trained hash as a file.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/hash_file_metadata.h"
#include "training/recipe.h"

namespace spotlight::training {

// The metadata of a hash of `recipe`. What is served says encoder = z | linear and scoring = asymmetric. Baselines are
// for evaluation only and are refused by LoadHashFile: encoder = paper, scoring = symmetric (query bits against key
// bits), and "-per-query-head" behind the scoring where every query head has its own codes, with tensors for Hq heads
// instead of Hkv.
engine::HashFileMetadata HashMetadata(const Recipe& recipe, const engine::ModelConfig& config,
                                      const std::string& model_fingerprint);

// Whether writing `path` replaces nothing but a hash file. INVALID_ARGUMENT: something else is there, such as the
// checkpoint's weights or a text.
absl::Status CheckReplaceable(const std::string& path);

// `encoders`: HashTrainer::Export's; matrices are stored as `weights` says, biases in bf16, logit_scale in fp32. The
// file takes the place of another in one step, at the end. RESOURCE_EXHAUSTED: the disk is full. INTERNAL: a value that
// is not finite, named.
absl::Status WriteHashFile(const std::string& path, const std::map<std::string, at::Tensor>& encoders,
                           StoredWeights weights, const engine::HashFileMetadata& metadata);

// What who loads that file works with: `encoders` after rounding, in fp32.
std::map<std::string, at::Tensor> AsStored(const std::map<std::string, at::Tensor>& encoders, StoredWeights weights);

}  // namespace spotlight::training
