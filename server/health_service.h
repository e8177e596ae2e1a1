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
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/stream_places.h"

namespace spotlight::server {

class HealthWatch;

// Both methods raw (bytes in, bytes out), so that a request is measured before it is parsed: anyone may send one.
using RawHealthService = grpc::health::v1::Health::WithRawCallbackMethod_Check<
    grpc::health::v1::Health::WithRawCallbackMethod_Watch<grpc::health::v1::Health::Service>>;

// Thread-safe. Names: "", "spotlight.v1.Generation" and "readiness" (may requests be sent?), "liveness" (should the
// process be left running?). Others are NOT_FOUND for Check, SERVICE_UNKNOWN for Watch.
// INVALID_ARGUMENT: more than kMaxSmallMessageBytes. RESOURCE_EXHAUSTED: a Watch that finds no place.
class HealthService final : public RawHealthService {
 public:
  // `places` are those of the watches, and outlive them.
  explicit HealthService(StreamPlaces* places);

  void Set(bool live, bool ready);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;

 private:
  friend class HealthWatch;
  using ServingStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;
  struct Service {
    ServingStatus status = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
    int64_t version = 0;  // counts the updates
    std::set<std::shared_ptr<HealthWatch>> watches;
  };

  void Update(const std::string& name, ServingStatus status);
  void Remove(Service* service, const std::shared_ptr<HealthWatch>& watch);

  StreamPlaces* const places_;
  Mutex mutex_;
  std::map<std::string, Service> services_ ABSL_GUARDED_BY(mutex_);  // the names never change
};

}  // namespace spotlight::server
