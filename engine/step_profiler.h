// Records what the engine thread does in the next few steps, for whoever asks: the bookkeeping. What is recorded, and
// how, is the recorder's affair.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"

namespace spotlight::engine {

// Makes a recording's text; may take a while, and runs on any thread.
using RenderRecording = std::function<absl::StatusOr<std::string>()>;

// Engine thread only.
class StepRecorder {
 public:
  virtual ~StepRecorder() = default;
  virtual absl::Status Start() = 0;
  // After a successful Start. What was recorded since.
  virtual absl::StatusOr<RenderRecording> Stop() = 0;
};

// Thread-safe, but for what belongs to the engine thread.
class StepProfiler {
 public:
  explicit StepProfiler(std::unique_ptr<StepRecorder> recorder) : recorder_(std::move(recorder)) {}

  // Waits until `num_steps` steps were recorded or `timeout` has passed, and gives what there is by then.
  // ALREADY_EXISTS: another call is waiting; DEADLINE_EXCEEDED: no step ended in time; UNAVAILABLE: the engine has
  // stopped. Else the recorder's error.
  absl::StatusOr<std::string> Profile(int32_t num_steps, absl::Duration timeout);
  // Nothing will be recorded any more: who waits gets UNAVAILABLE.
  void Close();

  // The engine thread's part. Without a call of Profile a pass costs one atomic load.
  // Before the first pass: `wake` makes the engine thread run a pass though it has nothing to do.
  void SetWake(std::function<void()> wake);
  void BeforePass() {
    if (wanted_.load(std::memory_order_acquire)) Begin();
  }
  void AfterPass(bool ran_step) {
    if (recording_) Count(ran_step);
  }
  void OnEngineStop();  // the last call on its thread

 private:
  enum class State { kIdle, kWanted, kRecording, kDone };

  void Begin();
  void Count(bool ran_step);
  void Finish();
  void Reset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<RenderRecording> Record(int32_t num_steps, absl::Duration timeout);
  // Or the time is up, or closed.
  void WaitUntilDone(absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake();

  const std::unique_ptr<StepRecorder> recorder_;
  std::atomic<bool> wanted_{false};
  bool recording_ = false;  // engine thread only

  Mutex wake_mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(wake_mutex_);

  Mutex mutex_;
  CondVar changed_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kIdle;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;  // nobody waits for the recording under way
  bool enough_ ABSL_GUARDED_BY(mutex_) = false;     // it is to end after the pass under way
  int32_t num_wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t num_steps_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::StatusOr<RenderRecording> result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::engine
