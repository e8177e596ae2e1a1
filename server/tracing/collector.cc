#include "server/tracing/collector.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

// What the OTLP specification gives an export.
constexpr std::chrono::seconds kTimeout(10);
constexpr absl::Duration kLineInterval = absl::Minutes(1);

}  // namespace

Collector::Collector(const OtlpEndpoint& endpoint, const std::string& ca_file, SpanCounter counter,
                     const engine::Clock* clock)
    : endpoint_(endpoint), clock_(clock), client_(endpoint.base), counter_(std::move(counter)) {
  client_.set_keep_alive(true);
  client_.set_connection_timeout(kTimeout);
  client_.set_read_timeout(kTimeout);
  client_.set_write_timeout(kTimeout);
  if (!ca_file.empty()) client_.set_ca_cert_path(ca_file);
}

int Collector::Post(const httplib::Headers& headers, const char* body, size_t num_bytes) {
  const httplib::Result result = client_.Post(endpoint_.path, headers, body, num_bytes, "application/x-protobuf");
  MutexLock lock(&mutex_);
  if (!result) {
    last_error_ = httplib::to_string(result.error());
    return 0;
  }
  if (result->status / 100 != 2) last_error_ = absl::StrCat("HTTP status ", result->status);
  return result->status;
}

bool Collector::TakeLine(absl::Duration* last) {
  const absl::Duration now = clock_->Now();
  if (now - *last < kLineInterval) return false;
  *last = now;
  return true;
}

void Collector::Count(SpanOutcome outcome, size_t num_spans) {
  MutexLock lock(&mutex_);
  if (closed_) return;
  if (counter_) counter_(outcome, num_spans);
  switch (outcome) {
    case SpanOutcome::kExported:
      if (num_lost_ > 0) spdlog::info("traces: {} takes spans again; {} were lost", endpoint_.url(), num_lost_);
      num_lost_ = 0;
      last_lost_line_ = -absl::InfiniteDuration();
      break;
    case SpanOutcome::kFailed:
      num_lost_ += num_spans;
      if (TakeLine(&last_lost_line_)) {
        spdlog::warn("traces: {} did not take {} spans, which are lost: {}", endpoint_.url(), num_lost_, last_error_);
      }
      break;
    case SpanOutcome::kLimited:
      return;
    case SpanOutcome::kDropped:
      num_dropped_ += num_spans;
      if (TakeLine(&last_dropped_line_)) {
        spdlog::warn("traces: {} spans were dropped so far: too many wait for {}", num_dropped_, endpoint_.url());
      }
      break;
  }
}

void Collector::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
  counter_ = nullptr;
}

}  // namespace spotlight::server
