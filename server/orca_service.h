// xds.service.orca.v3.OpenRcaService: load reports for balancers that do not see the calls' own. gRPC 1.51 has none.
#pragma once

#include <chrono>
#include <functional>

#include "server/raw_service.h"
#include "server/request_reads.h"
#include "server/stream_places.h"
#include "xds/service/orca/v3/orca.pb.h"

namespace spotlight::server {

// Between two reports, a second to a day; 30 seconds where the request names none.
std::chrono::milliseconds ReportInterval(const xds::service::orca::v3::OrcaLoadReportRequest& request);

// Thread-safe. Outlives every call. StreamCoreMetrics sends a report at once and then every ReportInterval.
// INVALID_ARGUMENT: more than kMaxSmallMessageBytes. RESOURCE_EXHAUSTED: no place.
class OrcaService final : public RawService {
 public:
  using Reporter = std::function<xds::data::orca::v3::OrcaLoadReport()>;

  // `places` are those of the streams; these, and `reads`, outlive the calls.
  OrcaService(Reporter reporter, StreamPlaces* places, RequestReads* reads);

 private:
  const Reporter reporter_;
};

}  // namespace spotlight::server
