// What the engine reports of each step and each request: values, handed to an observer that must not block.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/model_runner.h"
#include "engine/options.h"
#include "engine/response_sink.h"

namespace spotlight::engine {

struct RowRetrieval {
  int32_t context_tokens = 0;
  int32_t candidate_tokens = 0;
  int32_t selected_tokens = 0;
};

enum class QualityOutcome : uint8_t { kGood, kLow, kNotFinite };  // kLow: under the guardrail's floor

// What was measured of one row in one layer.
struct QualitySample {
  int32_t layer = 0;
  RetrievalQuality measured;
  QualityOutcome outcome = QualityOutcome::kGood;
  absl::optional<QualityFallback> fallback;  // what its request falls back to after this sample
};

enum class RequestPhase : uint8_t { kQueued, kPrefill, kDecode };

struct CancelRelease {
  RequestPhase phase = RequestPhase::kQueued;  // where the request was
  double seconds = 0;                          // from Cancel(), or from its deadline, to its pages free
};

// One pass of the engine that did something. A pass that only released cancelled requests has no rows and takes 0
// seconds.
struct StepStats {
  // Planning to the last delta, the model included; of steps that overlap, from the last delta of the one before.
  double step_seconds = 0;
  // As much of it as the engine's thread did not wait for the device. On a CPU all of it: the host is the device.
  double host_seconds = 0;
  bool cuda_graph = false;                     // the step was replayed from a captured graph
  absl::optional<absl::Status> graph_capture;  // StepResult's
  int32_t num_prefill_tokens = 0;
  int32_t num_decode_rows = 0;
  int32_t num_generated_tokens = 0;
  int32_t num_discarded_tokens = 0;  // of rows whose sequence ended while the step was under way
  std::vector<RowRetrieval> sparse_rows;
  std::vector<int32_t> context_tokens;  // of every decode row
  std::vector<DenseReason> dense_rows;  // why, one per dense decode row
  int64_t kv_read_bytes = 0, kv_dense_equivalent_bytes = 0;
  absl::optional<RetrievalSeconds> retrieval;
  absl::optional<QualitySample> quality;
  std::vector<double> inter_token_seconds;  // one per token after a request's first
  int32_t num_preempted = 0;
  int32_t num_prefix_query_tokens = 0, num_prefix_hit_tokens = 0;
  std::vector<CancelRelease> cancel_releases;  // of requests released in this pass
};

struct RequestStats {
  std::string request_id;
  Finish finish;
  RequestPhase phase = RequestPhase::kQueued;  // where it was when it ended
  double end_to_end_seconds = 0;
  int32_t wasted_tokens = 0;  // generated after the client left
};

// A reading of the engine's state. Gauges.
struct EngineLoad {
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_waiting_tokens = 0;
  int32_t num_pages = 0, num_free_pages = 0;
  bool healthy = true;  // false after a device fault, and once a step took too long (EngineOptions::max_step_seconds)
  std::string fault;    // which one; empty while healthy
  bool draining = false;
};

// Thread-safe; called on the engine's threads; must not block.
class StatsObserver {
 public:
  virtual ~StatsObserver() = default;
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnRequestEnd(const RequestStats& stats) = 0;
};

}  // namespace spotlight::engine
