// grpc.health.v1.Health with names of its own for liveness and readiness. gRPC's default implementation says SERVING
// from the first moment, before a model is loaded; this one starts NOT_SERVING.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "engine/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/support/server_callback.h"

namespace spotlight::server {

class HealthWatch;

// Thread-safe. Names: "", "spotlight.v1.Generation" and "readiness" (may requests be sent?), "liveness" (should the
// process be left running?). Others are NOT_FOUND for Check, SERVICE_UNKNOWN for Watch.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService();

  void Set(bool live, bool ready);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  friend class HealthWatch;
  using ServingStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;
  struct Service {
    ServingStatus status = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
    int64_t version = 0;  // counts the updates
    std::set<std::shared_ptr<HealthWatch>> watches;
  };

  void Update(const std::string& name, ServingStatus status);
  void Remove(const std::string& name, const std::shared_ptr<HealthWatch>& watch);

  Mutex mutex_;
  std::map<std::string, Service> services_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::server
