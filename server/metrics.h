// The engine's and the server's figures as Prometheus text. Recording is additions to handles found at construction:
// a step with 32 rows costs a few microseconds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/engine.h"
#include "engine/step_stats.h"
#include "server/call_record.h"
#include "server/histogram_buckets.h"
#include "server/tracing/span.h"

namespace spotlight::server {

// What the logs have lost since the start.
struct DroppedLogLines {
  int64_t requests = 0, program = 0;
};

// Thread-safe.
class Metrics final : public engine::StatsObserver {
 public:
  // `model_name` is on every family but process_*.
  explicit Metrics(const std::string& model_name, const HistogramBuckets& buckets = {});
  ~Metrics() override;

  void OnStep(const engine::StepStats& stats) override;
  void OnRequestEnd(const engine::RequestStats& stats) override;
  // Why a CUDA graph was not captured, the latest time since the call before; OK: none failed. Whoever may block logs
  // it: OnStep may not.
  absl::Status TakeCaptureFailure();
  void OnCallEnd(const CallRecord& record, bool draining);  // `draining`: the server, when the call ended

  // Once, when the model is loaded.
  void OnLoaded(const engine::ModelInfo& model, const engine::EngineOptions& options,
                const std::string& libtorch_version, double load_seconds);
  void SetServing(bool serving);
  void SetCertificateExpiry(double unix_seconds);
  void OnCredentialReload(const std::string& files, bool taken);
  void OnSpans(SpanOutcome outcome, size_t num_spans);

  // The whole exposition. `load`: absent before an engine runs.
  std::string Text(const absl::optional<engine::EngineLoad>& load, const DroppedLogLines& dropped = {});

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace spotlight::server
