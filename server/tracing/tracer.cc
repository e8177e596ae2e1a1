#include "server/tracing/tracer.h"

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "absl/memory/memory.h"
#include "server/tracing/collector.h"
#include "server/tracing/otlp_endpoint.h"
#include "server/tracing/shim/shim.h"
#include "version.h"

namespace spotlight::server {
namespace {

using Share = std::shared_ptr<Collector>;

TrText TextOf(absl::string_view text) {
  return {text.data(), text.size()};
}

std::string ToString(const TrText& text) {
  return std::string(text.data, text.len);
}

int32_t Post(void* context, const TrHeader* headers, size_t num_headers, const uint8_t* body, size_t num_bytes) {
  httplib::Headers fields;
  for (size_t i = 0; i < num_headers; ++i) fields.emplace(ToString(headers[i].name), ToString(headers[i].value));
  fields.erase("content-type");  // the client's own parameter
  return (*static_cast<Share*>(context))->Post(fields, reinterpret_cast<const char*>(body), num_bytes);
}

void Count(void* context, int32_t outcome, size_t num_spans) {
  const SpanOutcome outcomes[] = {SpanOutcome::kExported, SpanOutcome::kFailed, SpanOutcome::kDropped};
  static_assert(TR_EXPORTED == 0 && TR_FAILED == 1 && TR_DROPPED == 2);
  (*static_cast<Share*>(context))->Count(outcomes[outcome], num_spans);
}

void Release(void* context) {
  delete static_cast<Share*>(context);
}

TrAttribute ToAttribute(const char* key, const AttributeValue& value, std::vector<TrText>* texts) {
  TrAttribute attribute{TextOf(key), TR_TEXT, nullptr, 0, 0, 0};
  texts->clear();
  if (const auto* text = std::get_if<std::string>(&value)) {
    texts->push_back(TextOf(*text));
  } else if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    attribute.kind = TR_TEXTS;
    for (const std::string& text : *list) texts->push_back(TextOf(text));
  } else if (const auto* integer = std::get_if<int64_t>(&value)) {
    attribute.kind = TR_INT;
    attribute.integer = *integer;
  } else {
    attribute.kind = TR_DOUBLE;
    attribute.real = std::get<double>(value);
  }
  attribute.texts = texts->data();
  attribute.num_texts = texts->size();
  return attribute;
}

}  // namespace

Tracer::Tracer(std::shared_ptr<Collector> collector, TrTracer* tracer, double max_parents_per_second)
    : collector_(std::move(collector)), tracer_(tracer), parent_limit_(max_parents_per_second) {}

absl::StatusOr<std::unique_ptr<Tracer>> Tracer::Create(const TracingOptions& options, SpanCounter counter) {
  const auto endpoint = ParseOtlpEndpoint(options.endpoint);
  if (!endpoint.ok()) return endpoint.status();
  const auto collector = std::make_shared<Collector>(*endpoint, options.ca_file, std::move(counter));
  const std::string url = endpoint->url();
  const TrConfig config{TextOf(url), TextOf(kVersion), options.sample_ratio, options.max_queued_spans,
                        absl::ToInt64Milliseconds(options.export_interval)};
  TrTracer* tracer = nullptr;
  char error[256];
  if (tr_new(&config, {new Share(collector), Post, Count, Release}, &tracer, error, sizeof(error)) != 0) {
    return absl::InvalidArgumentError(error);
  }
  return absl::WrapUnique(new Tracer(collector, tracer, options.max_parents_per_second));
}

Tracer::~Tracer() {
  Shutdown(absl::ZeroDuration());
  tr_free(tracer_);
}

std::string Tracer::Record(const Span& span) {
  TraceParent parent = span.parent;
  if (parent.is_sampled() && !parent_limit_.Allow()) {
    parent.ClearSampled();
    collector_->Count(SpanOutcome::kLimited, 1);
  }
  std::vector<std::vector<TrText>> texts(span.attributes.size());
  std::vector<TrAttribute> attributes;
  attributes.reserve(span.attributes.size());
  for (size_t i = 0; i < span.attributes.size(); ++i) {
    attributes.push_back(ToAttribute(span.attributes[i].first, span.attributes[i].second, &texts[i]));
  }
  std::vector<TrEvent> events;
  events.reserve(span.events.size());
  for (const SpanEvent& event : span.events) events.push_back({TextOf(event.name), absl::ToUnixNanos(event.time)});
  const TrSpan ended{TextOf(span.name),
                     TextOf(parent.traceparent),
                     TextOf(parent.tracestate),
                     absl::ToUnixNanos(span.start),
                     absl::ToUnixNanos(span.end),
                     attributes.data(),
                     attributes.size(),
                     events.data(),
                     events.size(),
                     span.is_error,
                     TextOf(span.error)};
  char trace_id[32];
  return tr_record(tracer_, &ended, trace_id) == 0 ? std::string() : std::string(trace_id, sizeof(trace_id));
}

bool Tracer::Shutdown(absl::Duration timeout) {
  const bool in_time = tr_shutdown(tracer_, absl::ToInt64Milliseconds(timeout)) == 0;
  collector_->Close();
  return in_time;
}

}  // namespace spotlight::server
