#include "server/health_service.h"

#include <utility>
#include <vector>

#include "server/grpc_status.h"
#include "server/refused_stream.h"
#include "server/security/call_credentials.h"
#include "server/wire_message.h"

namespace spotlight::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch call: sends the latest status whenever it differs from the last one sent, one write at a time.
class HealthWatch final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                          public std::enable_shared_from_this<HealthWatch> {
 public:
  // `watched` is null for a name that is not known.
  HealthWatch(HealthService* health, HealthService::Service* watched, StreamPlaces::Place place)
      : health_(health), watched_(watched), place_(std::move(place)) {}

  void KeepUntilDone() { self_ = shared_from_this(); }

  // Updates come on several threads: an older one that comes late is dropped.
  void Send(HealthService::ServingStatus status, int64_t version) {
    {
      MutexLock lock(&mutex_);
      if (version < version_) return;
      version_ = version;
      latest_ = status;
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      write_in_flight_ = false;
      if (!ok) cancelled_ = true;
    }
    Advance();
  }

  void OnCancel() override {
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
    }
    Advance();
  }

  void OnDone() override {
    const std::shared_ptr<HealthWatch> last = std::move(self_);
    if (watched_ != nullptr) health_->Remove(watched_, last);
  }

 private:
  void Advance() {
    bool finish = false;
    {
      MutexLock lock(&mutex_);
      if (write_in_flight_ || finished_) return;
      if (cancelled_) {
        finish = finished_ = true;
      } else if (latest_ != sent_) {
        sent_ = latest_;
        HealthCheckResponse response;
        response.set_status(latest_);
        message_ = SerializeMessage(response);
        write_in_flight_ = true;
      } else {
        return;
      }
    }
    if (finish) {
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the watch was cancelled"));
    } else {
      StartWrite(&message_);
    }
  }

  HealthService* const health_;
  HealthService::Service* const watched_;
  const StreamPlaces::Place place_;
  std::shared_ptr<HealthWatch> self_;  // gRPC's reference
  grpc::ByteBuffer message_;           // the write's alone while one is in flight

  Mutex mutex_;
  HealthService::ServingStatus latest_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  HealthService::ServingStatus sent_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

HealthService::HealthService(StreamPlaces* places) : places_(places) {
  for (const char* name : {"", "spotlight.v1.Generation", "readiness", "liveness"}) services_[name];
}

void HealthService::Set(bool live, bool ready) {
  const auto status = [](bool serving) {
    return serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
  };
  for (const char* name : {"", "spotlight.v1.Generation", "readiness"}) Update(name, status(ready));
  Update("liveness", status(live));  // last: whoever sees it fall finds the others fallen
}

void HealthService::Update(const std::string& name, ServingStatus status) {
  std::vector<std::shared_ptr<HealthWatch>> watches;
  int64_t version;
  {
    MutexLock lock(&mutex_);
    Service& service = services_[name];
    service.status = status;
    version = ++service.version;
    watches.assign(service.watches.begin(), service.watches.end());
  }
  for (const auto& watch : watches) watch->Send(status, version);
}

void HealthService::Remove(Service* service, const std::shared_ptr<HealthWatch>& watch) {
  MutexLock lock(&mutex_);
  service->watches.erase(watch);
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                               grpc::ByteBuffer* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  HealthCheckRequest asked;
  if (absl::Status status = TakeSmallMessage(request, &asked); !status.ok()) {
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }
  HealthCheckResponse response;
  {
    MutexLock lock(&mutex_);
    const auto found = services_.find(asked.service());
    if (found != services_.end()) response.set_status(found->second.status);
  }
  if (response.status() == HealthCheckResponse::UNKNOWN) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no service of this name is watched"));
  } else {
    *reply = SerializeMessage(response);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* HealthService::Watch(grpc::CallbackServerContext* context,
                                                                 const grpc::ByteBuffer* request) {
  HealthCheckRequest asked;
  if (absl::Status status = TakeSmallMessage(request, &asked); !status.ok()) {
    return new RefusedStream(ToGrpcStatus(status));
  }
  auto place = places_->Take(CredentialsOf(*context).peer);
  if (!place.ok()) return new RefusedStream(ToGrpcStatus(place.status()));
  std::shared_ptr<HealthWatch> watch;
  ServingStatus status = HealthCheckResponse::SERVICE_UNKNOWN;
  int64_t version = 0;
  {
    MutexLock lock(&mutex_);
    const auto found = services_.find(asked.service());
    const bool known = found != services_.end();
    watch = std::make_shared<HealthWatch>(this, known ? &found->second : nullptr, *std::move(place));
    watch->KeepUntilDone();
    if (known) {
      status = found->second.status;
      version = found->second.version;
      found->second.watches.insert(watch);
    }
  }
  // The protocol wants the stream of an unknown name kept open.
  watch->Send(status, version);
  return watch.get();
}

}  // namespace spotlight::server
