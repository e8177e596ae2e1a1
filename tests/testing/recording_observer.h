#pragma once

#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"
#include "engine/step_stats.h"

namespace spotlight::engine {

// Thread-safe.
class RecordingObserver : public StatsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    MutexLock lock(&mutex_);
    steps_.push_back(stats);
  }
  void OnRequestEnd(const RequestStats& stats) override {
    MutexLock lock(&mutex_);
    requests_.push_back(stats);
  }
  std::vector<StepStats> steps() const {
    MutexLock lock(&mutex_);
    return steps_;
  }
  std::vector<RequestStats> requests() const {
    MutexLock lock(&mutex_);
    return requests_;
  }

 private:
  mutable Mutex mutex_;
  std::vector<StepStats> steps_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestStats> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::engine
