#include "tests/testing/fake_collector.h"

#include <utility>

namespace spotlight::testing {
namespace {

using opentelemetry::proto::common::v1::AnyValue;

std::string TextOf(const AnyValue& value) {
  switch (value.value_case()) {
    case AnyValue::kStringValue:
      return value.string_value();
    case AnyValue::kIntValue:
      return std::to_string(value.int_value());
    case AnyValue::kDoubleValue:
      return std::to_string(value.double_value());
    case AnyValue::kArrayValue: {
      std::string text;
      for (const AnyValue& each : value.array_value().values()) text += (text.empty() ? "" : ", ") + TextOf(each);
      return "[" + text + "]";
    }
    default:
      return "?";
  }
}

}  // namespace

std::string AttributeOf(const google::protobuf::RepeatedPtrField<opentelemetry::proto::common::v1::KeyValue>& list,
                        const std::string& key) {
  for (const auto& attribute : list) {
    if (attribute.key() == key) return TextOf(attribute.value());
  }
  return "";
}

FakeCollector::FakeCollector() {
  server_.Post("/v1/traces",
               [this](const httplib::Request& request, httplib::Response& response) { Take(request, &response); });
  port_ = server_.bind_to_any_port("127.0.0.1");
  thread_ = std::thread([this] { server_.listen_after_bind(); });
  while (!server_.is_running()) std::this_thread::yield();
}

FakeCollector::~FakeCollector() {
  set_status(503);
  server_.stop();
  thread_.join();
}

std::string FakeCollector::endpoint() const {
  return "http://127.0.0.1:" + std::to_string(port_) + "/v1/traces";
}

void FakeCollector::set_status(int status) {
  MutexLock lock(&mutex_);
  status_ = status;
  changed_.NotifyAll();
}

void FakeCollector::Take(const httplib::Request& request, httplib::Response* response) {
  MutexLock lock(&mutex_);
  ++num_posts_;
  headers_ = request.headers;
  changed_.NotifyAll();
  while (status_ == 0) changed_.Wait(&mutex_);
  response->status = status_;
  if (status_ != 200) return;
  ExportRequest spans;
  if (!spans.ParseFromString(request.body)) {
    response->status = 400;
    return;
  }
  requests_.push_back(std::move(spans));
  changed_.NotifyAll();
  response->set_content("", "application/x-protobuf");
}

ExportRequest FakeCollector::TakeRequest() {
  MutexLock lock(&mutex_);
  while (requests_.empty()) changed_.Wait(&mutex_);
  ExportRequest request = std::move(requests_.front());
  requests_.erase(requests_.begin());
  return request;
}

OtlpSpan FakeCollector::TakeSpan() {
  while (spans_.empty()) {
    const ExportRequest request = TakeRequest();
    for (const auto& resource : request.resource_spans()) {
      for (const auto& scope : resource.scope_spans()) {
        spans_.insert(spans_.end(), scope.spans().begin(), scope.spans().end());
      }
    }
  }
  OtlpSpan span = std::move(spans_.front());
  spans_.erase(spans_.begin());
  return span;
}

int FakeCollector::num_posts() const {
  MutexLock lock(&mutex_);
  return num_posts_;
}

void FakeCollector::WaitForPosts(int num_posts) const {
  MutexLock lock(&mutex_);
  while (num_posts_ < num_posts) changed_.Wait(&mutex_);
}

std::string FakeCollector::header(const std::string& name) const {
  MutexLock lock(&mutex_);
  const auto found = headers_.find(name);
  return found == headers_.end() ? "" : found->second;
}

}  // namespace spotlight::testing
