// Input: the bytes of a call that needs no token, behind one that says of which: even, a health question; odd, one for
// load reports.
#include "grpc/health/v1/health.pb.h"
#include "server/grpc_status.h"
#include "server/orca_service.h"
#include "server/utf8.h"
#include "server/wire_message.h"
#include "tests/fuzz/target.h"
#include "xds/service/orca/v3/orca.pb.h"

namespace spotlight::fuzz {
namespace {

bool Reads(absl::string_view input, google::protobuf::Message* message) {
  const grpc::Slice slice(input.data(), input.size());
  grpc::ByteBuffer bytes(&slice, 1);
  const absl::Status status = server::TakeSmallMessage(&bytes, message);
  Require(bytes.Length() == 0, "a request is not kept");
  if (status.ok()) return true;
  Require(status.code() == absl::StatusCode::kInvalidArgument, "a bad request is called one");
  const grpc::Status answer = server::ToGrpcStatus(status);
  Require(!answer.error_message().empty() && answer.error_message().size() < 2048, "a refusal says why, in short");
  Require(server::IsUtf8(answer.error_message()), "a refusal is text");
  return false;
}

}  // namespace

bool Accepts(absl::string_view input) {
  if (input.empty()) return false;
  const bool is_health = input[0] % 2 == 0;
  input.remove_prefix(1);
  if (is_health) {
    grpc::health::v1::HealthCheckRequest request;
    if (!Reads(input, &request)) return false;
    Require(request.service().size() <= server::kMaxSmallMessageBytes, "a name is short");
    return true;
  }
  xds::service::orca::v3::OrcaLoadReportRequest request;
  if (!Reads(input, &request)) return false;
  const auto interval = server::ReportInterval(request);
  Require(interval >= std::chrono::seconds(1) && interval <= std::chrono::hours(24), "reports neither flood nor stop");
  return true;
}

}  // namespace spotlight::fuzz
