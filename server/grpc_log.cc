#include "server/grpc_log.h"

#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/mutex.h"
#include "grpc/support/log.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

constexpr int kMaxLines = 10;
constexpr absl::Duration kWindow = absl::Seconds(10);

class LineLimit {
 public:
  // Whether a line may be written; `*num_left_out` before it since the last one that might.
  bool Take(absl::Duration now, int64_t* num_left_out) {
    MutexLock lock(&mutex_);
    if (now - window_start_ >= kWindow) {
      window_start_ = now;
      num_lines_ = 0;
    }
    if (num_lines_ == kMaxLines) {
      ++num_left_out_;
      return false;
    }
    ++num_lines_;
    *num_left_out = num_left_out_;
    num_left_out_ = 0;
    return true;
  }

 private:
  Mutex mutex_;
  absl::Duration window_start_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  int num_lines_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

void Log(gpr_log_func_args* args) {
  static auto* const limit = new LineLimit();
  if (args->severity != GPR_LOG_SEVERITY_ERROR) return;
  int64_t num_left_out = 0;
  if (!limit->Take(engine::Clock::Steady()->Now(), &num_left_out)) return;
  if (num_left_out > 0) spdlog::warn("gRPC: {} more errors were not logged", num_left_out);
  spdlog::warn("gRPC: {}", args->message);
}

}  // namespace

void LogGrpcErrors() {
  gpr_set_log_function(Log);
}

}  // namespace spotlight::server
