#include "server/tracing_flags.h"

#include <stdlib.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "server/tracing/otlp_endpoint.h"

ABSL_FLAG(std::string, otlp_endpoint, "",
          "Send traces to this OpenTelemetry collector, OTLP over HTTP (usually port 4318); empty: to the one that "
          "OTEL_EXPORTER_OTLP_ENDPOINT names, if it is set");
ABSL_FLAG(double, trace_sample_ratio, 1,
          "Share of the traces that begin here to send, 0 to 1; calls with a traceparent follow their caller");
ABSL_FLAG(
    double, trace_parents_per_second, 100,
    "Send at most so many traces a second because their callers want them sent (the sampled flag of traceparent); "
    "of more nothing is sent");

namespace spotlight::server {
namespace {

constexpr int kMaxParentsPerSecond = 1000000;

// Empty is as good as unset: OpenTelemetry's specification wants it so.
std::string Variable(const char* name) {
  const char* const value = getenv(name);
  return value == nullptr ? "" : value;
}

absl::Status Named(absl::string_view name, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", status.message()));
}

// Where an endpoint may stand; the first that is not empty counts.
struct Source {
  const char* name;
  std::string text;
  bool is_base;  // of all signals
};

// A collector's gRPC port would not understand us: better now than never a span.
absl::Status CheckProtocol() {
  for (const char* name : {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"}) {
    const std::string protocol = Variable(name);
    if (protocol.empty()) continue;
    if (protocol == "http/protobuf") break;
    return Named(name, absl::InvalidArgumentError(absl::StrCat("must be http/protobuf, got \"", protocol,
                                                               "\"; --otlp-endpoint goes before the environment")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTracingFlags(TracingOptions* options) {
  options->sample_ratio = absl::GetFlag(FLAGS_trace_sample_ratio);
  if (!(options->sample_ratio >= 0 && options->sample_ratio <= 1)) {
    return Named("--trace-sample-ratio",
                 absl::InvalidArgumentError(absl::StrCat("must be in [0, 1], got ", options->sample_ratio)));
  }
  options->max_parents_per_second = absl::GetFlag(FLAGS_trace_parents_per_second);
  if (!(options->max_parents_per_second >= 0 && options->max_parents_per_second <= kMaxParentsPerSecond)) {
    return Named("--trace-parents-per-second",
                 absl::InvalidArgumentError(absl::StrCat("must be in [0, ", kMaxParentsPerSecond, "], got ",
                                                         options->max_parents_per_second)));
  }
  const Source sources[] = {
      {"--otlp-endpoint", absl::GetFlag(FLAGS_otlp_endpoint), false},
      {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), false},
      {"OTEL_EXPORTER_OTLP_ENDPOINT", Variable("OTEL_EXPORTER_OTLP_ENDPOINT"), true}};
  const auto source =
      std::find_if(std::begin(sources), std::end(sources), [](const Source& each) { return !each.text.empty(); });
  if (source == std::end(sources)) return absl::OkStatus();
  const auto endpoint = source->is_base ? ParseOtlpBaseEndpoint(source->text) : ParseOtlpEndpoint(source->text);
  if (!endpoint.ok()) return Named(source->name, endpoint.status());
  options->endpoint = endpoint->url();
  options->ca_file = Variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE");
  if (options->ca_file.empty()) options->ca_file = Variable("OTEL_EXPORTER_OTLP_CERTIFICATE");
  return source == std::begin(sources) ? absl::OkStatus() : CheckProtocol();
}

}  // namespace spotlight::server
