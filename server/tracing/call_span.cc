#include "server/tracing/call_span.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc_status.h"

namespace spotlight::server {
namespace {

// The codes that are a server's failure; the others are the client's affair.
bool IsServerError(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

void AddFinish(const engine::Finish& finish, const std::string& model_name, Span* span) {
  const auto add = [span](const char* key, AttributeValue value) {
    span->attributes.emplace_back(key, std::move(value));
  };
  add("gen_ai.operation.name", std::string("text_completion"));
  add("gen_ai.provider.name", std::string("spotlight"));
  add("gen_ai.request.model", model_name);
  add("gen_ai.response.model", model_name);
  add("gen_ai.response.finish_reasons", std::vector<std::string>{FinishReasonName(finish.reason)});
  add("gen_ai.usage.input_tokens", int64_t{finish.usage.prompt_tokens});
  add("gen_ai.usage.output_tokens", int64_t{finish.usage.completion_tokens});
  add("gen_ai.usage.cache_read.input_tokens", int64_t{finish.usage.cached_prompt_tokens});
  add("spotlight.queue_seconds", finish.timings.queue);
  add("spotlight.prefill_seconds", finish.timings.prefill);
  add("spotlight.time_to_first_token_seconds", finish.timings.time_to_first_token);
  add("spotlight.decode_seconds", finish.timings.decode);
  add("spotlight.retrieval.sparse_steps", finish.retrieval.sparse_steps);
  add("spotlight.retrieval.dense_steps", finish.retrieval.dense_steps);
  add("spotlight.retrieval.selected_ratio", finish.retrieval.selected_ratio);
}

// Times of the request, counted from `accepted`.
void AddEvents(const engine::Finish& finish, absl::Time accepted, Span* span) {
  const engine::Timings& timings = finish.timings;
  const auto add = [&](const char* name, double seconds) {
    span->events.push_back({name, std::min(accepted + absl::Seconds(seconds), span->end)});
  };
  add("queue", 0);
  const bool scheduled = timings.queue > 0 || timings.time_to_first_token > 0;
  if (scheduled) add("prefill", timings.queue);
  if (timings.time_to_first_token > 0) {
    add("first_token", timings.time_to_first_token);
    add("end", timings.time_to_first_token + timings.decode);
  } else {
    span->events.push_back({"end", span->end});
  }
}

}  // namespace

Span CallSpan(const CallRecord& record, absl::Time end, const std::string& model_name, const ListenAddress& address) {
  Span span;
  span.name = absl::StrCat("spotlight.v1.Generation/", record.method);
  // A stranger's call is no part of anybody's trace.
  if (!absl::IsUnauthenticated(record.status)) span.parent = record.trace_parent;
  span.end = end;
  span.start = end - absl::Seconds(record.seconds);
  const auto code = static_cast<grpc::StatusCode>(record.status.code());
  const std::string code_name(CodeName(code));
  span.attributes = {{"rpc.system.name", std::string("grpc")},
                     {"rpc.method", span.name},
                     {"rpc.response.status_code", code_name},
                     {"server.address", address.host},
                     {"server.port", int64_t{address.port}}};
  const auto add = [&span](const char* key, AttributeValue value) {
    span.attributes.emplace_back(key, std::move(value));
  };
  if (!record.caller.empty()) add("spotlight.caller", record.caller);
  if (!record.request_id.empty()) add("gen_ai.response.id", record.request_id);
  if (IsServerError(record.status.code())) {
    add("error.type", code_name);
    span.is_error = true;
    span.error = BoundedMessage(record.status);
  }
  if (record.finish.has_value()) {
    AddFinish(*record.finish, model_name, &span);
    AddEvents(*record.finish, span.start + absl::Seconds(record.accepted_seconds), &span);
  }
  return span;
}

}  // namespace spotlight::server
