#include "benchmarks/engine/step_times.h"

#include <algorithm>
#include <numeric>

namespace spotlight::engine {

void StepTimes::Begin(int32_t batch) {
  MutexLock lock(&mutex_);
  batch_ = batch;
  seconds_.clear();
  host_seconds_.clear();
  retrieval_.clear();
  graphs_ = 0;
}

void StepTimes::OnStep(const StepStats& stats) {
  MutexLock lock(&mutex_);
  if (stats.num_decode_rows != batch_ || stats.num_prefill_tokens > 0) return;
  seconds_.push_back(stats.step_seconds);
  host_seconds_.push_back(stats.host_seconds);
  graphs_ += stats.cuda_graph ? 1 : 0;
  if (stats.retrieval.has_value()) retrieval_.push_back(*stats.retrieval);
}

absl::StatusOr<StepTiming> StepTimes::Timing(int warm_up) const {
  MutexLock lock(&mutex_);
  if (seconds_.size() <= static_cast<size_t>(warm_up)) {
    return absl::InternalError("the rows never decoded together");
  }
  std::vector<double> seconds(seconds_.begin() + warm_up, seconds_.end());
  std::vector<double> host_seconds(host_seconds_.begin() + warm_up, host_seconds_.end());
  std::vector<RetrievalSeconds> retrieval = retrieval_;
  std::sort(seconds.begin(), seconds.end());
  std::sort(host_seconds.begin(), host_seconds.end());
  std::sort(retrieval.begin(), retrieval.end(),
            [](const RetrievalSeconds& a, const RetrievalSeconds& b) { return a.total < b.total; });
  StepTiming timing;
  timing.median_ms = 1e3 * seconds[seconds.size() / 2];
  timing.mean_ms = 1e3 * std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
  timing.p99_ms = 1e3 * seconds[seconds.size() * 99 / 100];
  timing.host_ms = 1e3 * host_seconds[host_seconds.size() / 2];
  if (!retrieval.empty()) timing.retrieval = retrieval[retrieval.size() / 2];
  timing.steps = static_cast<int>(seconds.size());
  timing.graphs = graphs_;
  return timing;
}

}  // namespace spotlight::engine
