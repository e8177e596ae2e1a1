// A few threads for work on texts that callers sent, bounded by the texts' bytes and fair to the callers.
//
// Next is the caller whose tasks have had the fewest bytes; one that comes back after a pause starts level with those
// that wait, so nobody saves up for later. Of the bounds a caller may fill at most 8 times what is still free, as of
// the queue (admission/waiting_shares.h): one that sends without end cannot keep others out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "engine/mutex.h"

namespace spotlight::engine {

// Of what waits for a thread. Both at least 1.
struct WorkBounds {
  int32_t max_tasks = 256;
  int64_t max_bytes = 256 << 20;
};

// Thread-safe.
class FairWorkers {
 public:
  struct Task {
    std::string id;  // for Withdraw; need not be unique
    std::string caller;
    int64_t num_bytes = 0;
    std::function<void()> run;
  };

  FairWorkers(int num_threads, const WorkBounds& bounds);
  ~FairWorkers();  // Stop
  FairWorkers(const FairWorkers&) = delete;
  FairWorkers& operator=(const FairWorkers&) = delete;

  // RESOURCE_EXHAUSTED: "encoding_queue: ...", the bounds, or "caller_share: ...", the caller's share of them. A task
  // larger than the bound passes alone. Not after Stop.
  absl::Status Post(Task task);
  // Takes back the caller's oldest task with this id that no thread has begun; null: none.
  std::function<void()> Withdraw(const std::string& caller, const std::string& id);
  // Runs what is left, then joins.
  void Stop();

 private:
  struct Line {
    std::deque<Task> tasks;  // may be empty: `served` is kept while it is ahead of the clock
    int64_t num_bytes = 0;   // of them
    int64_t served = 0;      // bytes, on the clock `served_`
  };

  absl::Status CheckRoom(const Task& task) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Task TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Task Remove(Line* line, std::deque<Task>::iterator task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();

  const WorkBounds bounds_;
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Line> lines_ ABSL_GUARDED_BY(mutex_);  // by caller
  int32_t num_tasks_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t served_ ABSL_GUARDED_BY(mutex_) = 0;  // where the caller stood whose task was begun last; grows
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace spotlight::engine
