#include "server/orca_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "engine/mutex.h"
#include "grpcpp/alarm.h"
#include "server/grpc_status.h"
#include "server/security/call_credentials.h"
#include "server/wire_message.h"

namespace spotlight::server {
namespace {

constexpr int64_t kMinIntervalMs = 1000;
constexpr int64_t kDefaultIntervalMs = 30 * 1000;
constexpr int64_t kMaxIntervalMs = int64_t{24} * 3600 * 1000;

// Writes and waits in turn, so that a stream never has both a write and an alarm that would come back to it. Whoever
// finds it cancelled when its turn comes finishes, and touches it no more: gRPC's OnDone deletes.
class OrcaStream final : public RequestReactor {
 public:
  OrcaStream(const OrcaService::Reporter* reporter, StreamPlaces* places, std::string peer)
      : reporter_(reporter), places_(places), peer_(std::move(peer)) {}

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      if (ok && !cancelled_) {
        waiting_ = true;
        alarm_.Set(std::chrono::system_clock::now() + interval_, [this](bool) { OnAlarm(); });
        return;
      }
    }
    End();
  }

  void OnCancel() override {
    bool waiting;
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
      waiting = waiting_;
    }
    if (waiting) alarm_.Cancel();  // calls OnAlarm; OnDone waits for this to return
    CancelRead();
  }

  void OnDone() override { delete this; }

 private:
  void OnRequest(grpc::ByteBuffer* bytes) override {
    xds::service::orca::v3::OrcaLoadReportRequest asked;
    if (absl::Status status = TakeSmallMessage(bytes, &asked); !status.ok()) return OnNoRequest(status);
    auto place = places_->Take(peer_);
    if (!place.ok()) return OnNoRequest(place.status());
    place_ = *std::move(place);
    interval_ = ReportInterval(asked);
    Write();
  }
  void OnNoRequest(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }

  void Write() {
    report_ = SerializeMessage((*reporter_)());
    StartWrite(&report_);
  }

  void OnAlarm() {
    bool cancelled;
    {
      MutexLock lock(&mutex_);
      waiting_ = false;
      cancelled = cancelled_;
    }
    if (cancelled) return End();
    Write();
  }

  void End() { Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the reports were cancelled")); }

  const OrcaService::Reporter* const reporter_;
  StreamPlaces* const places_;
  const std::string peer_;
  std::chrono::milliseconds interval_{0};
  StreamPlaces::Place place_;
  grpc::ByteBuffer report_;  // the write's alone while one is in flight
  Mutex mutex_;
  grpc::Alarm alarm_;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::chrono::milliseconds ReportInterval(const xds::service::orca::v3::OrcaLoadReportRequest& request) {
  if (!request.has_report_interval()) return std::chrono::milliseconds(kDefaultIntervalMs);
  const int64_t seconds = std::clamp<int64_t>(request.report_interval().seconds(), 0, kMaxIntervalMs / 1000);
  const int64_t milliseconds = seconds * 1000 + request.report_interval().nanos() / 1000000;
  return std::chrono::milliseconds(std::clamp(milliseconds, kMinIntervalMs, kMaxIntervalMs));
}

OrcaService::OrcaService(Reporter reporter, StreamPlaces* places, RequestReads* reads)
    : reporter_(std::move(reporter)) {
  AddRawMethod("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
               [this, places, reads](grpc::CallbackServerContext* context) {
                 const std::string peer = CredentialsOf(*context).peer;
                 auto* const stream = new OrcaStream(&reporter_, places, peer);  // deletes itself
                 stream->ReadRequest(reads, RequestReads::Room::kAnyone, peer, context);
                 return stream;
               });
}

}  // namespace spotlight::server
