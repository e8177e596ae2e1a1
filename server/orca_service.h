// xds.service.orca.v3.OpenRcaService: load reports for balancers that do not see the calls' own. gRPC 1.51 has none.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/stream_places.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace spotlight::server {

// Between two reports, a second to a day; 30 seconds where the request names none.
std::chrono::milliseconds ReportInterval(const xds::service::orca::v3::OrcaLoadReportRequest& request);

// Raw (bytes in, bytes out), so that a request is measured before it is parsed: anyone may send one.
using RawOrcaService = xds::service::orca::v3::OpenRcaService::WithRawCallbackMethod_StreamCoreMetrics<
    xds::service::orca::v3::OpenRcaService::Service>;

// Thread-safe. Outlives every call.
class OrcaService final : public RawOrcaService {
 public:
  using Reporter = std::function<xds::data::orca::v3::OrcaLoadReport()>;

  // `places` are those of the streams, and outlive them.
  OrcaService(Reporter reporter, StreamPlaces* places) : reporter_(std::move(reporter)), places_(places) {}

  // A report at once and then every ReportInterval.
  // INVALID_ARGUMENT: more than kMaxSmallMessageBytes. RESOURCE_EXHAUSTED: no place.
  grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamCoreMetrics(grpc::CallbackServerContext* context,
                                                                const grpc::ByteBuffer* request) override;

 private:
  const Reporter reporter_;
  StreamPlaces* const places_;
};

}  // namespace spotlight::server
