// Selectors by the names that the command line gives them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "training/evaluation/selector.h"
#include "training/evaluation/selectors/evaluated_hash.h"

namespace spotlight::training {

struct SelectorListOptions {
  std::vector<std::string> names;  // see CheckSelectorNames
  std::string hash_path;           // of names without a path; empty: they are refused
  int32_t prefilter_factor = 4;
  double adaptive_share = 0.5;
  uint64_t seed = 0;
};

struct SelectorList {
  std::vector<std::unique_ptr<Selector>> selectors;          // in the order of their names
  std::vector<std::shared_ptr<const EvaluatedHash>> hashes;  // by selector; null for those without a file
};

// INVALID_ARGUMENT: as CheckSelectorNames, and a hash without a file. Errors of the files as LoadEvaluatedHash.
absl::StatusOr<SelectorList> MakeSelectors(const SelectorListOptions& options, const engine::ModelConfig& config,
                                           const std::string& model_fingerprint, at::Device device);

}  // namespace spotlight::training
