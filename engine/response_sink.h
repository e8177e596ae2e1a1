// What the engine gives back to whoever submitted a request.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;  // natural log, of the model's distribution before temperature and filters
  std::vector<std::pair<int32_t, float>> top;  // best first; as many as were asked for
};

// A piece of the answer. `text` is whole UTF-8 characters and holds no part of a stop string that may still match; it
// can be empty while `token_ids` is not. Concatenated texts are the answer, byte for byte.
struct Delta {
  int32_t index = 0;  // the sample that it belongs to
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprob> logprobs;  // one per token id when asked for

  // The prompt, as asked for, before anything of the answer: its text and ids in the first delta, the
  // log-probabilities of its tokens but the first as they are computed.
  std::string prompt_text;
  std::vector<int32_t> prompt_token_ids;
  std::vector<TokenLogprob> prompt_logprobs;

  bool has_prompt() const { return !prompt_text.empty() || !prompt_token_ids.empty() || !prompt_logprobs.empty(); }
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kDeadline, kAborted, kError };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;     // of all samples
  int32_t cached_prompt_tokens = 0;  // taken from the prefix cache
};

// Seconds.
struct Timings {
  double queue = 0;    // accepted to first scheduled
  double prefill = 0;  // first scheduled to first token
  double time_to_first_token = 0;
  double decode = 0;            // first token to last
  double mean_inter_token = 0;  // 0 with fewer than two tokens
};

enum class DenseReason : uint8_t { kNone, kShortContext, kLayerPolicy, kRequestOverride, kGuardrail, kNoHash };

// What the sampled steps of a request measured (quality_policy.h); all 0 without a sample.
struct QualityStats {
  int64_t num_samples = 0;
  double recall = 0, iou = 0, attention_mass = 0, output_error = 0;  // means
  double min_attention_mass = 0;
};

// What the quality guardrail made of a request. Once it is dense it stays so, and a larger budget is never taken back.
struct RetrievalFallback {
  int32_t count = 0;         // 0: the guardrail did nothing
  int32_t after_tokens = 0;  // generated before the first fallback
  bool dense = false;
  double budget_ratio = 0;  // in place of the request's and the server's, unless dense
};

struct RetrievalStats {
  int64_t sparse_steps = 0, dense_steps = 0;      // decode steps
  DenseReason dense_reason = DenseReason::kNone;  // of the latest dense step
  double selected_ratio = 0;                      // mean over sparse steps of attended tokens / context tokens
  int64_t kv_read_bytes = 0;                      // K, V and codes read by decode steps, all layers
  int64_t kv_dense_equivalent_bytes = 0;          // what dense attention would have read
  bool untrained_hash = false;                    // the hash was never trained: quality is meaningless
  QualityStats quality;
  RetrievalFallback fallback;
};

// The end of a request. `status` is OK for kStop and kLength; else it says what happened (CANCELLED, DEADLINE_EXCEEDED,
// RESOURCE_EXHAUSTED, INVALID_ARGUMENT, INTERNAL, ...).
struct Finish {
  int32_t index = 0;  // the sample that ended
  absl::Status status;
  FinishReason reason = FinishReason::kNone;
  absl::optional<std::string> matched_stop;    // the stop string that ended it
  absl::optional<int32_t> matched_stop_token;  // or the token
  uint64_t seed = 0;                           // the seed used
  Usage usage;                                 // the request's; of use in OnFinish only
  Timings timings;
  RetrievalStats retrieval;
};

// Implemented by the caller of Engine::Submit. Calls come one at a time, on the engine's threads: they must return at
// once and must not call back into the engine. After OnFinish, which comes exactly once, nothing more is called.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  // Once, before the first delta: the prompt was accepted and encoded.
  virtual void OnPrompt(int32_t prompt_tokens) = 0;
  virtual void OnDelta(Delta delta) = 0;
  // A sample ended, and others of the request go on or end next.
  virtual void OnSampleFinish(Finish) {}
  // The last sample ended.
  virtual void OnFinish(Finish finish) = 0;
};

}  // namespace spotlight::engine
