// xds.service.orca.v3.OpenRcaService: load reports for balancers that do not see the calls' own. gRPC 1.51 has none.
#pragma once

#include <functional>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace spotlight::server {

// Thread-safe. Outlives every call.
class OrcaService final : public xds::service::orca::v3::OpenRcaService::CallbackService {
 public:
  using Reporter = std::function<xds::data::orca::v3::OrcaLoadReport()>;

  explicit OrcaService(Reporter reporter) : reporter_(std::move(reporter)) {}

  // A report at once and then every report_interval: a second at least, 30 where the request names none.
  grpc::ServerWriteReactor<xds::data::orca::v3::OrcaLoadReport>* StreamCoreMetrics(
      grpc::CallbackServerContext* context, const xds::service::orca::v3::OrcaLoadReportRequest* request) override;

 private:
  const Reporter reporter_;
};

}  // namespace spotlight::server
