#include "server/health_service.h"

#include <utility>
#include <vector>

#include "server/grpc_status.h"
#include "server/security/call_credentials.h"
#include "server/wire_message.h"

namespace spotlight::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class HealthCheck final : public RequestReactor {
 public:
  explicit HealthCheck(HealthService* health) : health_(health) {}

  void OnCancel() override { CancelRead(); }
  void OnDone() override { delete this; }

 private:
  void OnRequest(grpc::ByteBuffer* bytes) override {
    HealthCheckRequest asked;
    if (absl::Status status = TakeSmallMessage(bytes, &asked); !status.ok()) return OnNoRequest(status);
    HealthCheckResponse response;
    response.set_status(health_->StatusOf(asked.service()));
    if (response.status() == HealthCheckResponse::UNKNOWN) {
      return OnNoRequest(absl::NotFoundError("no service of this name is watched"));
    }
    reply_ = SerializeMessage(response);
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), grpc::Status::OK);
  }
  void OnNoRequest(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }

  HealthService* const health_;
  grpc::ByteBuffer reply_;
};

// One Watch call: sends the latest status whenever it differs from the last one sent, one write at a time.
class HealthWatch final : public RequestReactor, public std::enable_shared_from_this<HealthWatch> {
 public:
  HealthWatch(HealthService* health, std::string peer) : health_(health), peer_(std::move(peer)) {}

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
    bool is_read;
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
      is_read = is_read_;
    }
    is_read ? Advance() : CancelRead();
  }

  void OnDone() override {
    const std::shared_ptr<HealthWatch> last = std::move(self_);
    if (watched_ != nullptr) health_->Remove(watched_, last);
  }

 private:
  void OnRequest(grpc::ByteBuffer* bytes) override {
    HealthCheckRequest asked;
    if (absl::Status status = TakeSmallMessage(bytes, &asked); !status.ok()) return OnNoRequest(status);
    auto place = health_->places_->Take(peer_);
    if (!place.ok()) return OnNoRequest(place.status());
    place_ = *std::move(place);
    {
      MutexLock lock(&mutex_);
      is_read_ = true;  // from here on a cancel ends the call as anything else does
    }
    watched_ = health_->Add(asked.service(), self_);
    // The protocol wants the stream of an unknown name kept open.
    if (watched_ == nullptr) Send(HealthCheckResponse::SERVICE_UNKNOWN, 0);
  }
  void OnNoRequest(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }

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
  const std::string peer_;
  HealthService::Service* watched_ = nullptr;  // this and the place are set when the request is read
  StreamPlaces::Place place_;
  std::shared_ptr<HealthWatch> self_;  // gRPC's reference
  grpc::ByteBuffer message_;           // the write's alone while one is in flight

  Mutex mutex_;
  HealthService::ServingStatus latest_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  HealthService::ServingStatus sent_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_read_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

HealthService::HealthService(StreamPlaces* places, RequestReads* reads) : places_(places), reads_(reads) {
  for (const char* name : {"", "spotlight.v1.Generation", "readiness", "liveness"}) services_[name];
  AddRawMethod("/grpc.health.v1.Health/Check", [this](grpc::CallbackServerContext* context) {
    auto* const check = new HealthCheck(this);  // deletes itself
    check->ReadRequest(reads_, RequestReads::Room::kAnyone, CredentialsOf(*context).peer, context);
    return check;
  });
  AddRawMethod("/grpc.health.v1.Health/Watch", [this](grpc::CallbackServerContext* context) {
    const std::string peer = CredentialsOf(*context).peer;
    const auto watch = std::make_shared<HealthWatch>(this, peer);
    watch->KeepUntilDone();
    watch->ReadRequest(reads_, RequestReads::Room::kAnyone, peer, context);
    return watch.get();
  });
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

HealthService::ServingStatus HealthService::StatusOf(const std::string& name) {
  MutexLock lock(&mutex_);
  const auto found = services_.find(name);
  return found == services_.end() ? HealthCheckResponse::UNKNOWN : found->second.status;
}

HealthService::Service* HealthService::Add(const std::string& name, const std::shared_ptr<HealthWatch>& watch) {
  Service* service;
  ServingStatus status;
  int64_t version;
  {
    MutexLock lock(&mutex_);
    const auto found = services_.find(name);
    if (found == services_.end()) return nullptr;
    service = &found->second;
    service->watches.insert(watch);
    status = service->status;
    version = service->version;
  }
  watch->Send(status, version);
  return service;
}

void HealthService::Remove(Service* service, const std::shared_ptr<HealthWatch>& watch) {
  MutexLock lock(&mutex_);
  service->watches.erase(watch);
}

}  // namespace spotlight::server
