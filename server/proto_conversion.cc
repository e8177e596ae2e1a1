#include "server/proto_conversion.h"

#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/admission/kv_capacity.h"
#include "server/request_id.h"

namespace spotlight::server {
namespace {

// Ids go into logs and maps; a client's own id needs no more than this.
constexpr size_t kMaxRequestIdBytes = 256;
// A model's name comes back in the error that it is not served.
constexpr size_t kMaxModelBytes = 256;
constexpr int kMaxChatMessages = 4096;
constexpr size_t kMaxCacheSaltBytes = 256;

absl::Status TooManyTokens(int num_tokens, int32_t max_context_tokens) {
  return absl::InvalidArgumentError(
      absl::StrCat("token_ids: ", num_tokens, " tokens do not fit into the context of ", max_context_tokens));
}

absl::StatusOr<engine::Prompt> ToChatPrompt(v1::ChatPrompt* chat) {
  if (chat->messages_size() > kMaxChatMessages) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat.messages: must be at most ", kMaxChatMessages, " messages, got ", chat->messages_size()));
  }
  engine::ChatPrompt prompt;
  prompt.messages.reserve(chat->messages_size());
  for (v1::ChatMessage& message : *chat->mutable_messages()) {
    prompt.messages.push_back({std::move(*message.mutable_role()), std::move(*message.mutable_content())});
  }
  return prompt;
}

absl::StatusOr<engine::Prompt> ToPrompt(v1::GenerateRequest* request, const engine::ModelInfo& model) {
  const int32_t max_context_tokens = model.max_context_tokens;
  const auto too_many = [&model](const absl::Status& status) {
    return model.context_is_cache ? engine::OverKvCapacity(status) : status;
  };
  switch (request->prompt_case()) {
    case v1::GenerateRequest::kText:
      return engine::TextPrompt{std::move(*request->mutable_text())};
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request->token_ids().ids();
      if (request->truncate_prompt_tokens() > 0 && ids.size() > request->truncate_prompt_tokens()) {
        if (request->truncate_prompt_tokens() > max_context_tokens)
          return too_many(TooManyTokens(ids.size(), max_context_tokens));
        return engine::TokenPrompt{{ids.end() - request->truncate_prompt_tokens(), ids.end()}};
      }
      if (absl::Status status = CheckTokenIds(ids, max_context_tokens); !status.ok()) return too_many(status);
      return engine::TokenPrompt{{ids.begin(), ids.end()}};
    }
    case v1::GenerateRequest::kChat:
      return ToChatPrompt(request->mutable_chat());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt: one of text, token_ids and chat must be set");
}

absl::StatusOr<engine::SamplingParams> ToSampling(const v1::Sampling& sampling) {
  engine::SamplingParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_min_p()) params.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  params.presence_penalty = sampling.presence_penalty();
  params.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_seed()) params.seed = sampling.seed();
  if (sampling.has_n()) params.n = sampling.n();
  for (const auto& [token_id, bias] : sampling.logit_bias()) {
    if (token_id < 0) {
      return absl::InvalidArgumentError(absl::StrCat("sampling.logit_bias: key ", token_id, " is not a token id"));
    }
    params.logit_bias.emplace_back(token_id, bias);
  }
  return params;
}

engine::StoppingParams ToStopping(v1::Stopping* stopping) {
  engine::StoppingParams params;
  if (stopping->has_max_tokens()) params.max_tokens = stopping->max_tokens();
  params.min_tokens = stopping->min_tokens();
  params.stop.assign(std::make_move_iterator(stopping->mutable_stop()->begin()),
                     std::make_move_iterator(stopping->mutable_stop()->end()));
  params.stop_token_ids.assign(stopping->stop_token_ids().begin(), stopping->stop_token_ids().end());
  params.include_stop = stopping->include_stop();
  params.ignore_eos = stopping->ignore_eos();
  return params;
}

absl::StatusOr<engine::RetrievalParams> ToRetrieval(const v1::Retrieval& retrieval) {
  engine::RetrievalParams params;
  switch (retrieval.mode()) {
    case v1::RETRIEVAL_MODE_UNSPECIFIED:
    case v1::RETRIEVAL_MODE_AUTO:
      params.mode = engine::RetrievalMode::kAuto;
      break;
    case v1::RETRIEVAL_MODE_SPARSE:
      params.mode = engine::RetrievalMode::kSparse;
      break;
    case v1::RETRIEVAL_MODE_DENSE:
      params.mode = engine::RetrievalMode::kDense;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("retrieval.mode: ", static_cast<int>(retrieval.mode()), " is not a RetrievalMode"));
  }
  if (retrieval.has_budget_ratio()) params.budget_ratio = retrieval.budget_ratio();
  if (retrieval.has_min_tokens()) params.min_tokens = retrieval.min_tokens();
  if (retrieval.has_sink_tokens()) params.sink_tokens = retrieval.sink_tokens();
  if (retrieval.has_recent_tokens()) params.recent_tokens = retrieval.recent_tokens();
  return params;
}

v1::FinishReason ToProto(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case engine::FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case engine::FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case engine::FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case engine::FinishReason::kAborted:
      return v1::FINISH_REASON_ABORTED;
    case engine::FinishReason::kNone:
    case engine::FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::DenseReason ToProto(engine::DenseReason reason) {
  switch (reason) {
    case engine::DenseReason::kShortContext:
      return v1::DENSE_REASON_SHORT_CONTEXT;
    case engine::DenseReason::kLayerPolicy:
      return v1::DENSE_REASON_LAYER_POLICY;
    case engine::DenseReason::kRequestOverride:
      return v1::DENSE_REASON_REQUEST_OVERRIDE;
    case engine::DenseReason::kGuardrail:
      return v1::DENSE_REASON_GUARDRAIL;
    case engine::DenseReason::kNoHash:
      return v1::DENSE_REASON_NO_HASH;
    case engine::DenseReason::kNone:
      break;
  }
  return v1::DENSE_REASON_UNSPECIFIED;
}

void SetQuality(const engine::RetrievalStats& stats, v1::RetrievalStats* message) {
  if (stats.quality.num_samples > 0) {
    v1::RetrievalQuality* quality = message->mutable_quality();
    quality->set_samples(stats.quality.num_samples);
    quality->set_recall(stats.quality.recall);
    quality->set_iou(stats.quality.iou);
    quality->set_attention_mass(stats.quality.attention_mass);
    quality->set_min_attention_mass(stats.quality.min_attention_mass);
    quality->set_output_error(stats.quality.output_error);
  }
  if (stats.fallback.count > 0) {
    v1::RetrievalFallback* fallback = message->mutable_fallback();
    fallback->set_count(stats.fallback.count);
    fallback->set_after_tokens(stats.fallback.after_tokens);
    if (!stats.fallback.dense) fallback->set_budget_ratio(stats.fallback.budget_ratio);
  }
}

void AppendLogprobs(const std::vector<engine::TokenLogprob>& logprobs,
                    google::protobuf::RepeatedPtrField<v1::TokenLogprob>* messages) {
  for (const engine::TokenLogprob& logprob : logprobs) {
    v1::TokenLogprob* added = messages->Add();
    added->set_token_id(logprob.token_id);
    added->set_logprob(logprob.logprob);
    for (const auto& [token_id, value] : logprob.top) {
      v1::TopLogprob* top = added->add_top();
      top->set_token_id(token_id);
      top->set_logprob(value);
    }
  }
}

// To a stream's message, a unary answer, or one of its further samples.
template <class Message>
void AppendAnswer(const engine::Delta& delta, bool with_token_ids, Message* message) {
  message->mutable_text()->append(delta.text);
  if (with_token_ids) message->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  AppendLogprobs(delta.logprobs, message->mutable_logprobs());
}

v1::Sample* OtherSample(int32_t index, v1::GenerateResponse* message) {
  while (message->other_samples_size() < index) message->add_other_samples();
  return message->mutable_other_samples(index - 1);
}

template <class Message>
void AppendPrompt(const engine::Delta& delta, bool with_token_ids, Message* message) {
  if (!delta.has_prompt()) return;
  v1::PromptInfo* info = message->mutable_prompt_info();
  info->mutable_text()->append(delta.prompt_text);
  if (with_token_ids) info->mutable_token_ids()->Add(delta.prompt_token_ids.begin(), delta.prompt_token_ids.end());
  AppendLogprobs(delta.prompt_logprobs, info->mutable_logprobs());
}

void SetUsage(const engine::Usage& usage, v1::Usage* message) {
  message->set_prompt_tokens(usage.prompt_tokens);
  message->set_completion_tokens(usage.completion_tokens);
  message->set_cached_prompt_tokens(usage.cached_prompt_tokens);
  message->set_total_tokens(usage.prompt_tokens + usage.completion_tokens);
}

template <class Message>
void SetSampleFinishOf(const engine::Finish& finish, bool with_retrieval, Message* message) {
  message->set_finish_reason(ToProto(finish.reason));
  if (finish.matched_stop.has_value()) message->set_matched_stop(*finish.matched_stop);
  if (finish.matched_stop_token.has_value()) message->set_matched_stop_token_id(*finish.matched_stop_token);
  message->set_seed(finish.seed);

  v1::Timings* timings = message->mutable_timings();
  timings->set_queue_seconds(finish.timings.queue);
  timings->set_prefill_seconds(finish.timings.prefill);
  timings->set_time_to_first_token_seconds(finish.timings.time_to_first_token);
  timings->set_decode_seconds(finish.timings.decode);
  timings->set_mean_inter_token_seconds(finish.timings.mean_inter_token);

  if (!with_retrieval) return;
  v1::RetrievalStats* retrieval = message->mutable_retrieval();
  retrieval->set_sparse_steps(finish.retrieval.sparse_steps);
  retrieval->set_dense_steps(finish.retrieval.dense_steps);
  retrieval->set_dense_reason(ToProto(finish.retrieval.dense_reason));
  retrieval->set_selected_ratio(finish.retrieval.selected_ratio);
  retrieval->set_kv_read_bytes(finish.retrieval.kv_read_bytes);
  retrieval->set_kv_dense_equivalent_bytes(finish.retrieval.kv_dense_equivalent_bytes);
  retrieval->set_untrained_hash(finish.retrieval.untrained_hash);
  SetQuality(finish.retrieval, retrieval);
}

}  // namespace

absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, int32_t max_context_tokens) {
  return ids.size() <= max_context_tokens ? absl::OkStatus() : TooManyTokens(ids.size(), max_context_tokens);
}

absl::StatusOr<engine::GenerateRequest> ToEngineRequest(v1::GenerateRequest* request, const engine::ModelInfo& model) {
  engine::GenerateRequest converted;
  if (request->request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id: must have at most ", kMaxRequestIdBytes, " bytes, got ",
                                                   request->request_id().size()));
  }
  converted.request_id = request->request_id().empty() ? NewRequestId() : std::move(*request->mutable_request_id());
  if (request->model().size() > kMaxModelBytes && request->model() != model.name) {
    return absl::InvalidArgumentError(
        absl::StrCat("model: must have at most ", kMaxModelBytes, " bytes, got ", request->model().size()));
  }
  if (!request->model().empty() && request->model() != model.name) {
    return absl::NotFoundError(
        absl::StrCat("model: \"", request->model(), "\" is not served here, \"", model.name, "\" is"));
  }
  converted.priority = request->priority();
  auto prompt = ToPrompt(request, model);
  if (!prompt.ok()) return prompt.status();
  converted.prompt = *std::move(prompt);
  auto sampling = ToSampling(request->sampling());
  if (!sampling.ok()) return sampling.status();
  converted.sampling = *std::move(sampling);
  if (request->has_stopping()) converted.stopping = ToStopping(request->mutable_stopping());
  auto retrieval = ToRetrieval(request->retrieval());
  if (!retrieval.ok()) return retrieval.status();
  converted.retrieval = *retrieval;
  if (request->has_logprobs()) converted.logprobs = request->logprobs();
  if (request->has_prompt_logprobs()) converted.prompt_logprobs = request->prompt_logprobs();
  converted.echo = request->echo();
  if (request->has_truncate_prompt_tokens()) converted.truncate_prompt_tokens = request->truncate_prompt_tokens();
  if (request->cache_salt().size() > kMaxCacheSaltBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cache_salt: must have at most ", kMaxCacheSaltBytes, " bytes, got ",
                                                   request->cache_salt().size()));
  }
  converted.cache_salt = std::move(*request->mutable_cache_salt());
  converted.bypass_prefix_cache = request->bypass_prefix_cache();
  return converted;
}

absl::StatusOr<engine::Prompt> ToEnginePrompt(v1::TokenizeRequest* request) {
  switch (request->prompt_case()) {
    case v1::TokenizeRequest::kText:
      return engine::TextPrompt{std::move(*request->mutable_text())};
    case v1::TokenizeRequest::kChat:
      return ToChatPrompt(request->mutable_chat());
    case v1::TokenizeRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt: one of text and chat must be set");
}

ReturnOptions ToReturnOptions(const v1::GenerateRequest& request) {
  ReturnOptions options;
  options.token_ids = request.return_token_ids();
  if (request.retrieval().has_return_stats()) options.retrieval = request.retrieval().return_stats();
  return options;
}

void AppendDelta(const engine::Delta& delta, const ReturnOptions& options, v1::GenerateStreamResponse* message) {
  message->set_index(delta.index);
  AppendPrompt(delta, options.token_ids, message);
  AppendAnswer(delta, options.token_ids, message);
}

void AppendDelta(const engine::Delta& delta, const ReturnOptions& options, v1::GenerateResponse* message) {
  AppendPrompt(delta, options.token_ids, message);
  if (delta.index == 0) {
    AppendAnswer(delta, options.token_ids, message);
  } else {
    AppendAnswer(delta, options.token_ids, OtherSample(delta.index, message));
  }
}

void SetSampleFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateStreamResponse* message) {
  message->set_index(finish.index);
  SetSampleFinishOf(finish, options.retrieval, message);
}

void SetSampleFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateResponse* message) {
  if (finish.index == 0) {
    SetSampleFinishOf(finish, options.retrieval, message);
  } else {
    SetSampleFinishOf(finish, options.retrieval, OtherSample(finish.index, message));
  }
}

void SetFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateStreamResponse* message) {
  SetSampleFinish(finish, options, message);
  SetUsage(finish.usage, message->mutable_usage());
}

void SetFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateResponse* message) {
  SetSampleFinish(finish, options, message);
  SetUsage(finish.usage, message->mutable_usage());
}

void SetModelInfo(const engine::ModelInfo& model, const engine::RetrievalOptions& retrieval,
                  v1::GetModelInfoResponse* message) {
  message->set_name(model.name);
  message->set_architecture(model.architecture);
  message->set_dtype(model.dtype);
  message->set_quantization(model.quantization);
  message->set_kv_cache_dtype(model.kv_cache_dtype.empty() ? model.dtype : model.kv_cache_dtype);
  message->set_device(model.device);
  message->set_num_layers(model.num_layers);
  message->set_num_query_heads(model.num_q_heads);
  message->set_num_kv_heads(model.num_kv_heads);
  message->set_head_dim(model.head_dim);
  message->set_vocab_size(model.vocab_size);
  message->set_num_parameters(model.num_parameters);
  message->set_max_context_tokens(model.max_context_tokens);
  message->mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  message->set_has_chat_template(model.has_chat_template);
  if (!model.hash.present) return;
  v1::HashInfo* hash = message->mutable_hash();
  hash->set_hash_bits(model.hash.hash_bits);
  hash->set_num_planes(model.hash.num_planes);
  hash->mutable_layers()->Add(model.hash.layers.begin(), model.hash.layers.end());
  hash->set_trained(model.hash.trained);
  hash->set_budget_ratio(retrieval.budget.ratio);
  hash->set_sparse_min_context(retrieval.sparse_min_context);
}

void SetLoads(const engine::EngineLoad& load, v1::GetLoadsResponse* message) {
  message->set_running_requests(load.num_running);
  message->set_waiting_requests(load.num_waiting);
  message->set_waiting_tokens(load.num_waiting_tokens);
  const int32_t used_pages = load.num_pages - load.num_free_pages;
  message->set_kv_cache_usage_ratio(load.num_pages > 0 ? static_cast<double>(used_pages) / load.num_pages : 0);
  message->set_free_kv_cache_tokens(int64_t{load.num_free_pages} * kernels::kPageTokens);
  message->set_draining(load.draining);
}

}  // namespace spotlight::server
