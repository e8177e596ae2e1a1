// The engine's options, a struct per owner.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/budget.h"

namespace spotlight::engine {

struct QueueOptions {
  int32_t max_waiting_requests = 256;
  int64_t max_waiting_tokens = 4 << 20;  // prompt tokens of waiting requests, together
};

struct SchedulerOptions {
  int32_t num_pages = 0;     // pages of kernels::kPageTokens tokens that the KV cache holds
  int32_t max_running = 32;  // sequences in one step
  // Token budget of one step: decode rows first, the rest for prefill chunks. 0, for LoadEngine: by device.
  int32_t max_step_tokens = 512;
  // The longest step, in seconds, that prompts may make while others decode; 0: three times a step that only decodes.
  double max_token_gap_seconds = 0;
  // Beside decoding sequences chunks of up to the last of these have one of these lengths (short_chunk.h). Ascending,
  // the last kMaxShortChunk; LoadEngine replaces them by what suits the model's kernels.
  std::vector<int32_t> short_chunks = {16, 32, 48, 64, 96, 128};
  bool prefix_cache = true;  // prompts find the pages that others computed of them
};

struct RetrievalOptions {
  kernels::Budget budget;             // budget.ratio is what requests may override
  int32_t sparse_min_context = 4096;  // AUTO is dense below this many context tokens
  bool sparse_required = false;       // refuse requests that would be served dense for want of a trained hash
};

enum class QualityFallback : uint8_t { kDense, kBudget };  // kBudget: larger budgets first

// Retrieval judged against exact attention, and what follows from it (quality_policy.h).
struct QualityOptions {
  int32_t sample_every = 128;  // one sparse step in this many measures a row in a layer; 0: none does
  double floor = 0;            // attention mass under it is low; 0: no guardrail
  int32_t low_samples = 3;     // of one request, one after another, until it falls back
  QualityFallback fallback = QualityFallback::kDense;
};

struct EngineOptions {
  QueueOptions queue;
  SchedulerOptions scheduler;
  RetrievalOptions retrieval;
  QualityOptions quality;
  // A step that takes longer hangs: from then on Load() says so, and Submit refuses. 0: steps may take any time.
  // Counted from one Load() or Submit to the next, at most StepWatch::kMaxLook each.
  double max_step_seconds = 0;
};

}  // namespace spotlight::engine
