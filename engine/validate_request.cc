#include "engine/validate_request.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/admission/kv_capacity.h"
#include "engine/utf8.h"

namespace spotlight::engine {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxStopTokens = 64;
constexpr size_t kMaxLogitBias = 300;
constexpr float kMaxAbsLogitBias = 100;
constexpr int32_t kMaxLogprobs = 20;

template <typename Value>
absl::Status Invalid(absl::string_view field, absl::string_view rule, Value got) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": must be ", rule, ", got ", got));
}

absl::Status CheckUtf8(absl::string_view field, absl::string_view text) {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": must be valid UTF-8; byte ", valid, " is not"));
}

absl::Status CheckTokenId(const std::string& field, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return Invalid(field, absl::StrCat("in [0, ", vocab_size, ")"), id);
}

absl::Status ValidateSampling(const SamplingParams& sampling, int32_t vocab_size) {
  // Negated comparisons refuse NaN.
  if (const auto t = sampling.temperature; t.has_value() && !(std::isfinite(*t) && *t >= 0)) {
    return Invalid("sampling.temperature", "finite and >= 0", *t);
  }
  if (const auto p = sampling.top_p; p.has_value() && !(*p > 0 && *p <= 1)) {
    return Invalid("sampling.top_p", "in (0, 1]", *p);
  }
  if (const auto k = sampling.top_k; k.has_value() && *k < 0) return Invalid("sampling.top_k", ">= 0", *k);
  if (const auto p = sampling.min_p; p.has_value() && !(*p >= 0 && *p <= 1)) {
    return Invalid("sampling.min_p", "in [0, 1]", *p);
  }
  // A logit divided by a tiny penalty is infinite.
  if (const auto r = sampling.repetition_penalty; r.has_value() && !(*r >= 0.01f && *r <= 100)) {
    return Invalid("sampling.repetition_penalty", "in [0.01, 100]", *r);
  }
  if (!(std::abs(sampling.presence_penalty) <= 2)) {
    return Invalid("sampling.presence_penalty", "in [-2, 2]", sampling.presence_penalty);
  }
  if (!(std::abs(sampling.frequency_penalty) <= 2)) {
    return Invalid("sampling.frequency_penalty", "in [-2, 2]", sampling.frequency_penalty);
  }
  if (sampling.n < 1 || sampling.n > kMaxSamples) {
    return Invalid("sampling.n", absl::StrCat("in [1, ", kMaxSamples, "]"), sampling.n);
  }
  if (sampling.logit_bias.size() > kMaxLogitBias) {
    return Invalid("sampling.logit_bias", absl::StrCat("at most ", kMaxLogitBias, " entries"),
                   sampling.logit_bias.size());
  }
  for (const auto& [id, bias] : sampling.logit_bias) {
    absl::Status status = CheckTokenId("sampling.logit_bias", id, vocab_size);
    if (!status.ok()) return status;
    if (!(std::abs(bias) <= kMaxAbsLogitBias)) {
      return Invalid(absl::StrCat("sampling.logit_bias[", id, "]"), "in [-100, 100]", bias);
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateStopping(const StoppingParams& stopping, int32_t vocab_size) {
  if (const auto n = stopping.max_tokens; n.has_value() && *n < 1) {
    return Invalid("stopping.max_tokens", "at least 1", *n);
  }
  if (stopping.min_tokens < 0) return Invalid("stopping.min_tokens", ">= 0", stopping.min_tokens);
  if (stopping.max_tokens.has_value() && stopping.min_tokens > *stopping.max_tokens) {
    return Invalid("stopping.min_tokens", absl::StrCat("at most max_tokens, ", *stopping.max_tokens),
                   stopping.min_tokens);
  }
  if (stopping.stop.size() > kMaxStopStrings) {
    return Invalid("stopping.stop", absl::StrCat("at most ", kMaxStopStrings, " strings"), stopping.stop.size());
  }
  for (size_t i = 0; i < stopping.stop.size(); ++i) {
    const std::string field = absl::StrCat("stopping.stop[", i, "]");
    const std::string& stop = stopping.stop[i];
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return Invalid(field, absl::StrCat("1 to ", kMaxStopBytes, " bytes"), stop.size());
    }
    absl::Status status = CheckUtf8(field, stop);
    if (!status.ok()) return status;
  }
  if (stopping.stop_token_ids.size() > kMaxStopTokens) {
    return Invalid("stopping.stop_token_ids", absl::StrCat("at most ", kMaxStopTokens, " ids"),
                   stopping.stop_token_ids.size());
  }
  for (size_t i = 0; i < stopping.stop_token_ids.size(); ++i) {
    absl::Status status =
        CheckTokenId(absl::StrCat("stopping.stop_token_ids[", i, "]"), stopping.stop_token_ids[i], vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ValidateRetrieval(const RetrievalParams& retrieval) {
  if (const auto ratio = retrieval.budget_ratio; ratio.has_value() && !(*ratio > 0 && *ratio <= 1)) {
    return Invalid("retrieval.budget_ratio", "in (0, 1]", *ratio);
  }
  const auto check = [](const char* field, const absl::optional<int32_t>& value, int32_t least) {
    if (!value.has_value() || (*value >= least && *value <= kMaxBudgetTokens)) return absl::OkStatus();
    return Invalid(field, absl::StrCat("in [", least, ", ", kMaxBudgetTokens, "]"), *value);
  };
  absl::Status status = check("retrieval.min_tokens", retrieval.min_tokens, 1);
  if (status.ok()) status = check("retrieval.sink_tokens", retrieval.sink_tokens, 0);
  if (status.ok()) status = check("retrieval.recent_tokens", retrieval.recent_tokens, 1);
  return status;
}

absl::Status ValidateChat(const ChatPrompt& chat) {
  if (chat.messages.empty()) return absl::InvalidArgumentError("chat.messages: must not be empty");
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const std::string field = absl::StrCat("chat.messages[", i, "]");
    if (chat.messages[i].role.empty())
      return absl::InvalidArgumentError(absl::StrCat(field, ".role: must not be empty"));
    absl::Status status = CheckUtf8(absl::StrCat(field, ".role"), chat.messages[i].role);
    if (status.ok()) status = CheckUtf8(absl::StrCat(field, ".content"), chat.messages[i].content);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status OverCache(absl::string_view field, int64_t num_tokens, int64_t cache_tokens) {
  return OverKvCapacity(absl::InvalidArgumentError(absl::StrCat(field, ": a prompt of ", num_tokens,
                                                                " tokens leaves no room for output in the KV cache of ",
                                                                cache_tokens, " tokens")));
}

absl::Status CheckFitsContext(absl::string_view field, int64_t num_tokens, const ModelInfo& model) {
  if (num_tokens + 1 <= model.max_context_tokens) return absl::OkStatus();
  if (model.context_is_cache) return OverCache(field, num_tokens, model.max_context_tokens);
  return absl::InvalidArgumentError(absl::StrCat(field, ": a prompt of ", num_tokens,
                                                 " tokens leaves no room for output in the context of ",
                                                 model.max_context_tokens, " tokens"));
}

}  // namespace

const char* PromptField(const Prompt& prompt) {
  if (std::holds_alternative<TextPrompt>(prompt)) return "text";
  return std::holds_alternative<TokenPrompt>(prompt) ? "token_ids" : "chat";
}

absl::Status ValidatePrompt(const Prompt& prompt, const ModelInfo& model, absl::optional<int32_t> truncate_to) {
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) {
    if (text->text.empty()) return absl::InvalidArgumentError("text: must not be empty");
    return CheckUtf8("text", text->text);
  }
  if (const auto* chat = std::get_if<ChatPrompt>(&prompt)) return ValidateChat(*chat);
  const std::vector<int32_t>& ids = std::get<TokenPrompt>(prompt).token_ids;
  if (ids.empty()) return absl::InvalidArgumentError("token_ids.ids: must not be empty");
  const auto num_kept = std::min<int64_t>(static_cast<int64_t>(ids.size()), truncate_to.value_or(INT32_MAX));
  absl::Status status = CheckFitsContext("token_ids", num_kept, model);
  if (!status.ok()) return status;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= model.vocab_size) {
      return CheckTokenId(absl::StrCat("token_ids.ids[", i, "]"), ids[i], model.vocab_size);
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateRequest(const GenerateRequest& request, const ModelInfo& model) {
  if (request.request_id.empty() || request.request_id.size() > kMaxRequestIdBytes) {
    return Invalid("request_id", absl::StrCat("1 to ", kMaxRequestIdBytes, " bytes"), request.request_id.size());
  }
  if (request.priority < kLowestPriority || request.priority > kHighestPriority) {
    return Invalid("priority", absl::StrCat("in [", kLowestPriority, ", ", kHighestPriority, "]"), request.priority);
  }
  absl::Status status = ValidatePrompt(request.prompt, model, request.truncate_prompt_tokens);
  if (status.ok()) status = ValidateSampling(request.sampling, model.vocab_size);
  if (status.ok()) status = ValidateStopping(request.stopping, model.vocab_size);
  if (!status.ok()) return status;
  status = ValidateRetrieval(request.retrieval);
  if (!status.ok()) return status;
  if (const auto n = request.logprobs; n.has_value() && (*n < 0 || *n > kMaxLogprobs)) {
    return Invalid("logprobs", absl::StrCat("in [0, ", kMaxLogprobs, "]"), *n);
  }
  if (const auto n = request.prompt_logprobs; n.has_value() && (*n < 0 || *n > kMaxLogprobs)) {
    return Invalid("prompt_logprobs", absl::StrCat("in [0, ", kMaxLogprobs, "]"), *n);
  }
  if (const auto n = request.truncate_prompt_tokens; n.has_value() && *n < 1) {
    return Invalid("truncate_prompt_tokens", "at least 1", *n);
  }
  return absl::OkStatus();
}

absl::Status ValidateEncodedPrompt(const Prompt& prompt, const std::vector<int32_t>& token_ids, const ModelInfo& model,
                                   int64_t cache_tokens) {
  const char* const field = PromptField(prompt);
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  if (num_tokens == 0) return absl::InvalidArgumentError(absl::StrCat(field, ": encodes to no tokens"));
  absl::Status status = CheckFitsContext(field, num_tokens, model);
  if (!status.ok()) return status;
  if (num_tokens + 1 > cache_tokens) return OverCache(field, num_tokens, cache_tokens);
  for (const int32_t id : token_ids) {
    if (id >= 0 && id < model.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": holds token ", id, ", and the model's vocabulary ends at ", model.vocab_size));
  }
  return absl::OkStatus();
}

SamplingParams ResolveSampling(const SamplingParams& sampling, const SamplingParams& model_default) {
  SamplingParams resolved = sampling;
  const auto resolve = [](auto* value, const auto& preferred, auto otherwise) {
    if (!value->has_value()) *value = preferred.value_or(otherwise);
  };
  resolve(&resolved.temperature, model_default.temperature, 1.0f);
  resolve(&resolved.top_p, model_default.top_p, 1.0f);
  resolve(&resolved.top_k, model_default.top_k, 0);
  resolve(&resolved.min_p, model_default.min_p, 0.0f);
  resolve(&resolved.repetition_penalty, model_default.repetition_penalty, 1.0f);
  return resolved;
}

}  // namespace spotlight::engine
