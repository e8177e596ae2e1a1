// The command line of spotlight-eval.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load.h"

namespace spotlight::training {

struct EvaluationOptions {
  std::string model_folder;
  std::string hash = "auto";  // a path, or "auto"
  std::vector<std::string> hash_folders;
  std::vector<std::string> texts;  // PATH or KIND=PATH
  std::vector<int64_t> contexts;
  std::vector<double> budgets;
  std::vector<std::string> selectors;
  int32_t num_queries = 0, num_sequences = 0, prefilter_factor = 0;
  double adaptive_share = 0;
  uint64_t seed = 0;
  bool perplexity = false, needle = false, tasks = false, fidelity = false;
  bool check_bars = false;
  std::string json;  // where to; empty: nowhere
  std::string device;
  engine::DTypeChoice dtype = engine::DTypeChoice::kAuto;
  engine::Quantization quantization = engine::Quantization::kNone;
  engine::KvCacheDType kv_cache_dtype = engine::KvCacheDType::kAuto;
  int32_t num_threads = 0;
};

enum class EvaluationAction { kEvaluate, kPrintHelp, kPrintVersion };

struct EvaluationCommandLine {
  EvaluationAction action = EvaluationAction::kEvaluate;
  EvaluationOptions options;  // of kEvaluate
};

// INVALID_ARGUMENT names the flag, its value and what it may be. Sets the process's flags: not thread-safe.
absl::StatusOr<EvaluationCommandLine> ParseEvaluationFlags(int argc, const char* const* argv);

std::string EvaluationHelp();

}  // namespace spotlight::training
