// How far greedy decoding with retrieval stays with the dense model, through the engine and a served hash file. No
// torch. See TASKS.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "training/evaluation/copy_texts.h"
#include "training/evaluation/progress.h"

namespace spotlight::training {

struct FidelityPrompt {
  std::string text;  // where the tokens come from
  std::vector<int32_t> token_ids;
};

struct FidelityOptions {
  std::vector<double> budgets;  // ratios of the context
  int32_t num_tokens = 128;     // of a continuation
};

struct FidelityRow {
  std::string text;
  double budget = 0;  // ratio
  int64_t prompt_tokens = 0, num_tokens = 0;
  // Running free: the first place where the token is not the dense model's (num_tokens: none), and the share of all
  // places that are equal. After the first difference the two go their own ways, so the share says less than the place.
  int64_t first_divergence = 0;
  double equal_share = 0;
  // Held to the dense model's continuation: where a token differs, decoding starts again behind the dense model's
  // token. Share equal among the num_judged tokens that sparse steps gave (each start's first token is dense).
  double agreement = 0;
  int64_t num_judged = 0;
  double selected_ratio = 0;  // attended tokens / context tokens, mean of the free run's steps
};

// A row for each prompt and budget. FAILED_PRECONDITION: the engine has no hash; INVALID_ARGUMENT: a prompt that with
// its continuation exceeds the context.
absl::StatusOr<std::vector<FidelityRow>> MeasureFidelity(engine::Engine* engine,
                                                         absl::Span<const FidelityPrompt> prompts,
                                                         const FidelityOptions& options,
                                                         const ProgressFunction& progress);

// The dense continuation as a sequence for MeasurePerplexity, kind "continuation": its row's `agreement` is fidelity
// for any selector, with keys and values of the sparse run all along.
absl::StatusOr<ScoredSequence> DenseContinuation(engine::Engine* engine, const FidelityPrompt& prompt,
                                                 int32_t num_tokens);

}  // namespace spotlight::training
