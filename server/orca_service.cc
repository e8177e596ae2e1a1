#include "server/orca_service.h"

#include <algorithm>
#include <chrono>

#include "engine/mutex.h"
#include "grpcpp/alarm.h"

namespace spotlight::server {
namespace {

using xds::data::orca::v3::OrcaLoadReport;

constexpr int64_t kMinIntervalMs = 1000;
constexpr int64_t kDefaultIntervalMs = 30 * 1000;
constexpr int64_t kMaxIntervalMs = int64_t{24} * 3600 * 1000;

// Writes and waits in turn, so that a stream never has both a write and an alarm that would come back to it. Whoever
// finds it cancelled when its turn comes finishes, and touches it no more: gRPC's OnDone deletes.
class OrcaStream final : public grpc::ServerWriteReactor<OrcaLoadReport> {
 public:
  OrcaStream(const OrcaService::Reporter* reporter, std::chrono::milliseconds interval)
      : reporter_(reporter), interval_(interval) {}

  void Write() {
    report_ = (*reporter_)();
    StartWrite(&report_);
  }

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
  }

  void OnDone() override { delete this; }

 private:
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
  const std::chrono::milliseconds interval_;
  OrcaLoadReport report_;  // the write's alone while one is in flight
  Mutex mutex_;
  grpc::Alarm alarm_;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<OrcaLoadReport>* OrcaService::StreamCoreMetrics(
    grpc::CallbackServerContext* context, const xds::service::orca::v3::OrcaLoadReportRequest* request) {
  int64_t interval_ms = kDefaultIntervalMs;
  if (request->has_report_interval()) {
    const int64_t seconds = std::clamp<int64_t>(request->report_interval().seconds(), 0, kMaxIntervalMs / 1000);
    interval_ms = std::max(seconds * 1000 + request->report_interval().nanos() / 1000000, kMinIntervalMs);
  }
  auto* stream = new OrcaStream(&reporter_, std::chrono::milliseconds(interval_ms));
  stream->Write();
  return stream;
}

}  // namespace spotlight::server
