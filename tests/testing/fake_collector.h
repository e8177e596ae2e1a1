// An OpenTelemetry collector for tests: takes OTLP over HTTP, and reads it with OpenTelemetry's own messages.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "engine/mutex.h"
#include "httplib.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.pb.h"

namespace spotlight::testing {

using ExportRequest = opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
using OtlpSpan = opentelemetry::proto::trace::v1::Span;

// The attribute, as text; a list as "[a, b]"; "" where there is none.
std::string AttributeOf(const google::protobuf::RepeatedPtrField<opentelemetry::proto::common::v1::KeyValue>& list,
                        const std::string& key);

// Thread-safe. Listens on a free port of the loopback until destroyed.
class FakeCollector {
 public:
  FakeCollector();
  ~FakeCollector();

  int port() const { return port_; }
  std::string endpoint() const;  // "http://127.0.0.1:PORT/v1/traces"

  // What to answer from now on; 200 takes the spans. 0: nothing, until another status is set.
  void set_status(int status);

  // The oldest request taken and not yet given out; waits for one.
  ExportRequest TakeRequest();
  // The oldest span likewise. Not to be mixed with TakeRequest.
  OtlpSpan TakeSpan();
  // Posts that came, whatever was answered.
  int num_posts() const;
  // Waits for so many of them.
  void WaitForPosts(int num_posts) const;
  std::string header(const std::string& name) const;  // of the latest post

 private:
  void Take(const httplib::Request& request, httplib::Response* response);

  httplib::Server server_;
  int port_ = 0;
  mutable Mutex mutex_;
  mutable CondVar changed_;
  int status_ ABSL_GUARDED_BY(mutex_) = 200;
  int num_posts_ ABSL_GUARDED_BY(mutex_) = 0;
  httplib::Headers headers_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExportRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<OtlpSpan> spans_;  // of requests that were opened, on the test's thread
  std::thread thread_;
};

}  // namespace spotlight::testing
