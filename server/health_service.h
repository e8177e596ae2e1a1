// grpc.health.v1.Health with names of its own for liveness and readiness. gRPC's default implementation says SERVING
// from the first moment, before a model is loaded; this one starts NOT_SERVING.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "engine/mutex.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/raw_service.h"
#include "server/request_reads.h"
#include "server/stream_places.h"

namespace spotlight::server {

class HealthCheck;
class HealthWatch;

// Thread-safe. Names: "", "spotlight.v1.Generation" and "readiness" (may requests be sent?), "liveness" (should the
// process be left running?). Others are NOT_FOUND for Check, SERVICE_UNKNOWN for Watch.
// INVALID_ARGUMENT: more than kMaxSmallMessageBytes. RESOURCE_EXHAUSTED: a Watch that finds no place.
class HealthService final : public RawService {
 public:
  // `places` are those of the watches; these, and `reads`, outlive the calls.
  HealthService(StreamPlaces* places, RequestReads* reads);

  void Set(bool live, bool ready);

 private:
  friend class HealthCheck;
  friend class HealthWatch;
  using ServingStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;
  struct Service {
    ServingStatus status = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
    int64_t version = 0;  // counts the updates
    std::set<std::shared_ptr<HealthWatch>> watches;
  };

  void Update(const std::string& name, ServingStatus status);
  // UNKNOWN: nobody knows the name.
  ServingStatus StatusOf(const std::string& name);
  // The watch gets the status that holds, and all that follow; null: nobody knows the name.
  Service* Add(const std::string& name, const std::shared_ptr<HealthWatch>& watch);
  void Remove(Service* service, const std::shared_ptr<HealthWatch>& watch);

  StreamPlaces* const places_;
  RequestReads* const reads_;
  Mutex mutex_;
  std::map<std::string, Service> services_ ABSL_GUARDED_BY(mutex_);  // the names never change
};

}  // namespace spotlight::server
