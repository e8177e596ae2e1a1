// One request as the scheduler sees it: its tokens, where it is, and the pages it owns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "engine/page_hash.h"
#include "engine/request.h"
#include "engine/response_sink.h"
#include "engine/shared_tokens.h"

namespace spotlight::engine {

enum class SequencePhase : uint8_t {
  kWaiting,  // owns no page
  kPrefill,  // owns pages for all of its tokens; their keys and values are being computed, a chunk a step
  kDecode,   // all its tokens but the latest are cached; a token a step
  kOver,     // finished, in whatever phase it was; steps under way may still have a row of it
};

struct CallerFlow;  // waiting_line.h

// What the quality policy keeps for a request.
struct QualityState {
  int64_t in_line_since = -1;  // the sample at which it joined the line, or went back to its end; -1: not in it yet
  int32_t num_samples = 0;
  int32_t num_low_samples = 0;  // the latest ones, one after another
  RetrievalFallback fallback;
};

// Values that do not change after the request is accepted, then the state that the scheduler and the quality policy
// keep. Engine thread only.
struct Sequence {
  uint64_t id = 0;  // in order of acceptance
  std::string caller;
  int32_t priority = 0;  // higher ones start first
  SharedTokens prompt_token_ids;
  SharedTokens distinct_prompt_token_ids;  // with a repetition penalty; else empty
  std::vector<int32_t> banned_token_ids;   // while fewer than min_tokens are generated
  SamplingParams sampling;                 // every optional resolved
  bool has_penalty = false;
  uint64_t seed = 0;
  RetrievalParams retrieval;
  int32_t min_tokens = 0;
  int32_t max_tokens = 0;     // of prompt and output together
  int32_t num_logprobs = -1;  // -1: none
  int32_t num_prompt_logprobs = -1;
  uint64_t first_sample_id = 0;  // of the samples of one prompt, whose ids follow each other
  int32_t num_samples = 1;

  std::vector<int32_t> output_token_ids;
  // Further tokens that steps under way will have generated, and the latest one's place among its step's samples.
  int32_t num_pending = 0;
  int32_t pending_sample = -1;
  SequencePhase phase = SequencePhase::kWaiting;
  uint64_t start_number = 0;   // in the order of first starts; 0: never started
  int32_t num_cached = 0;      // tokens whose keys and values are in the pages
  std::vector<int32_t> pages;  // the first ones perhaps held by others as well: full, never written again
  // Tokens [0, first_sparse) of the cached ones were computed densely, and so is what the pages hold of them.
  int32_t first_sparse = std::numeric_limits<int32_t>::max();
  // The root, then one for each full page, as far as known; empty: the prefix cache is not for it.
  std::vector<PageHash> page_hashes;
  int32_t num_named_pages = 0;  // of `pages`, offered to the prefix cache or found there
  int32_t num_prompt_hit = -1;  // prompt tokens found there at the first admission; -1: not yet admitted
  int32_t num_scored = 0;       // prompt tokens whose successors' log-probabilities were handed out
  QualityState quality;
  CallerFlow* flow = nullptr;  // the waiting line's, until it is over

  // Steps under way are counted as done, here and in num_cached.
  int32_t num_output_tokens() const { return static_cast<int32_t>(output_token_ids.size()) + num_pending; }
  int32_t num_tokens() const { return num_prompt_tokens() + num_output_tokens(); }
  int32_t num_prompt_tokens() const { return static_cast<int32_t>(prompt_token_ids.size()); }
  // Log-probabilities of the prompt's tokens that are still to be computed.
  int32_t num_unscored() const { return num_prompt_logprobs < 0 ? 0 : num_prompt_tokens() - 1 - num_scored; }
  // As Batch::token_ids: ~pending_sample where a step under way will have generated it.
  int32_t token_id(int32_t position) const {
    const int32_t output = position - num_prompt_tokens();
    if (output < 0) return prompt_token_ids[position];
    return output < static_cast<int32_t>(output_token_ids.size()) ? output_token_ids[output] : ~pending_sample;
  }
};

// Into a vector or deque that is in the order of first starts.
template <class Sequences>
void InsertByStart(Sequence* sequence, Sequences* sequences) {
  const auto is_older = [](uint64_t number, const Sequence* other) { return number < other->start_number; };
  sequences->insert(std::upper_bound(sequences->begin(), sequences->end(), sequence->start_number, is_older), sequence);
}

}  // namespace spotlight::engine
