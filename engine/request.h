// What a client asks of the engine. Plain values; the server converts protobuf messages to these.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", ... as the model's template knows them
  std::string content;  // UTF-8
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;
};

struct TextPrompt {
  std::string text;  // UTF-8; special tokens are parsed, and the tokenizer adds its own BOS where it has one
};

struct TokenPrompt {
  std::vector<int32_t> token_ids;  // as they are, nothing added
};

using Prompt = std::variant<TextPrompt, TokenPrompt, ChatPrompt>;

inline constexpr int32_t kMaxSamples = 64;

// Absent optionals take the checkpoint's generation_config.json, else the value named here.
struct SamplingParams {
  absl::optional<float> temperature;         // >= 0; 0 is greedy; else 1
  absl::optional<float> top_p;               // (0, 1]; else 1
  absl::optional<int32_t> top_k;             // >= 0; 0 is off; else 0
  absl::optional<float> min_p;               // [0, 1]; drops what is below min_p * the best's probability; else 0
  absl::optional<float> repetition_penalty;  // [0.01, 100], over prompt and output; else 1
  float presence_penalty = 0;                // [-2, 2], over the output
  float frequency_penalty = 0;               // [-2, 2], over the output
  absl::optional<uint64_t> seed;             // absent: drawn by the engine and reported
  int32_t n = 1;                             // [1, kMaxSamples] samples of the prompt
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added to its logit
};

struct StoppingParams {
  absl::optional<int32_t> max_tokens;  // >= 1; absent: as many as the context holds
  int32_t min_tokens = 0;              // no end-of-sequence token or stop before this many tokens
  std::vector<std::string> stop;       // non-empty strings
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;  // keep the matched stop string in the text
  bool ignore_eos = false;
};

inline constexpr int32_t kMaxBudgetTokens = 1 << 20;

enum class RetrievalMode : uint8_t { kAuto, kSparse, kDense };

struct RetrievalParams {
  RetrievalMode mode = RetrievalMode::kAuto;
  // Absent: the server's.
  absl::optional<double> budget_ratio;    // (0, 1]
  absl::optional<int32_t> min_tokens;     // [1, kMaxBudgetTokens]
  absl::optional<int32_t> sink_tokens;    // [0, kMaxBudgetTokens]
  absl::optional<int32_t> recent_tokens;  // [1, kMaxBudgetTokens]
};

// Priorities of requests, from the lowest to the highest.
inline constexpr int32_t kLowestPriority = -100;
inline constexpr int32_t kHighestPriority = 100;

// What tells running requests apart: a caller's ids are its own. In order of ids.
struct RequestKey {
  std::string request_id;
  std::string caller;

  friend bool operator==(const RequestKey& a, const RequestKey& b) {
    return std::tie(a.request_id, a.caller) == std::tie(b.request_id, b.caller);
  }
  friend bool operator<(const RequestKey& a, const RequestKey& b) {
    return std::tie(a.request_id, a.caller) < std::tie(b.request_id, b.caller);
  }
};

struct GenerateRequest {
  RequestKey key() const { return {request_id, caller}; }

  std::string
      request_id;        // unique among the caller's running requests; the server makes one where the client gave none
  std::string caller;    // who sent it: callers share the engine fairly
  int32_t priority = 0;  // [kLowestPriority, kHighestPriority]; higher ones start first
  absl::Duration timeout = absl::InfiniteDuration();  // from Submit to its deadline
  Prompt prompt;
  SamplingParams sampling;
  StoppingParams stopping;
  RetrievalParams retrieval;
  absl::optional<int32_t> logprobs;                // 0: the sampled token's; n: the n best as well; absent: none
  absl::optional<int32_t> prompt_logprobs;         // the same of the prompt's tokens but the first
  bool echo = false;                               // give the prompt back (Delta::prompt_text)
  absl::optional<int32_t> truncate_prompt_tokens;  // >= 1: keep the last tokens of a longer prompt
  std::string cache_salt;                          // prompts are shared among requests of one salt
  bool bypass_prefix_cache = false;                // neither read the prefix cache nor write to it
};

}  // namespace spotlight::engine
