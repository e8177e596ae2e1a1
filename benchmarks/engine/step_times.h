// What an engine reports of the steps in which a whole batch decodes.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "engine/mutex.h"
#include "engine/step_stats.h"

namespace spotlight::engine {

struct StepTiming {
  double median_ms = 0, mean_ms = 0, p99_ms = 0;
  double host_ms = 0;          // median, of the engine's thread: not waiting for the device
  RetrievalSeconds retrieval;  // of the timed step whose total is the median; 0 where none was
  int steps = 0;               // that were measured
  int graphs = 0;              // of those and the warm-up: replayed from graphs
};

// Keeps the steps in which `batch` rows decode and nothing else happens.
class StepTimes : public StatsObserver {
 public:
  void Begin(int32_t batch);
  // Since Begin, without the first `warm_up`. INTERNAL when there were no more.
  absl::StatusOr<StepTiming> Timing(int warm_up) const;

  void OnStep(const StepStats& stats) override;
  void OnRequestEnd(const RequestStats&) override {}

 private:
  mutable Mutex mutex_;
  int32_t batch_ ABSL_GUARDED_BY(mutex_) = 0;
  int graphs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<double> seconds_ ABSL_GUARDED_BY(mutex_), host_seconds_ ABSL_GUARDED_BY(mutex_);
  std::vector<RetrievalSeconds> retrieval_ ABSL_GUARDED_BY(mutex_);  // of those that were timed
};

}  // namespace spotlight::engine
