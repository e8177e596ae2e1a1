// What a request must satisfy before any work is done for it. Every message begins with the field, as the API names it:
// "sampling.temperature: must be finite and >= 0, got -1".
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/model_info.h"
#include "engine/request.h"

namespace spotlight::engine {

// INVALID_ARGUMENT: everything that can be told without encoding the prompt.
absl::Status ValidateRequest(const GenerateRequest& request, const ModelInfo& model);

// INVALID_ARGUMENT: an empty prompt, text that is not UTF-8, token ids outside the vocabulary or too many for the
// context, of which all but the last `truncate_to` will go.
absl::Status ValidatePrompt(const Prompt& prompt, const ModelInfo& model,
                            absl::optional<int32_t> truncate_to = absl::nullopt);

// An encoded prompt against what can be served, `model.max_context_tokens` and the whole cache. INVALID_ARGUMENT:
// empty, no room for an output token in the context or the cache (then also IsOverKvCapacity), or an id that the
// tokenizer has and the model has not.
absl::Status ValidateEncodedPrompt(const Prompt& prompt, const std::vector<int32_t>& token_ids, const ModelInfo& model,
                                   int64_t cache_tokens);

// Every optional set: the request's, else the model's default, else the API's.
SamplingParams ResolveSampling(const SamplingParams& sampling, const SamplingParams& model_default);

// The prompt's field in the API: "text", "token_ids" or "chat".
const char* PromptField(const Prompt& prompt);

}  // namespace spotlight::engine
