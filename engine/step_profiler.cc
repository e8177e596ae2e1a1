#include "engine/step_profiler.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

// For the step under way when the time is up; a prefill of a long prompt may take a while.
constexpr absl::Duration kLastStepTime = absl::Seconds(30);

absl::Status Stopping() {
  return absl::UnavailableError("the engine is stopping");
}

absl::Status NothingRan(absl::Duration timeout) {
  return absl::DeadlineExceededError(
      absl::StrCat("no step ran within ", absl::FormatDuration(timeout), ": there was nothing to do"));
}

}  // namespace

void StepProfiler::WaitUntilDone(absl::Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
  while (!closed_ && state_ != State::kDone) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return;
    changed_.WaitFor(&mutex_, left);
  }
}

absl::StatusOr<std::string> StepProfiler::Profile(int32_t num_steps, absl::Duration timeout) {
  const absl::StatusOr<RenderRecording> recording = Record(num_steps, timeout);
  if (!recording.ok()) return recording.status();
  return (*recording)();
}

absl::StatusOr<RenderRecording> StepProfiler::Record(int32_t num_steps, absl::Duration timeout) {
  {
    MutexLock lock(&mutex_);
    if (closed_) return Stopping();
    if (state_ != State::kIdle) return absl::AlreadyExistsError("a profile is being recorded already");
    state_ = State::kWanted;
    num_wanted_ = num_steps;
    wanted_.store(true, std::memory_order_release);
    WaitUntilDone(timeout);
    if (state_ == State::kWanted) {
      Reset();
      return closed_ ? Stopping() : NothingRan(timeout);
    }
    enough_ = true;
  }
  Wake();  // it may be idle, and only its thread can end the recording
  MutexLock lock(&mutex_);
  WaitUntilDone(kLastStepTime);
  if (state_ != State::kDone) {
    abandoned_ = true;
    return closed_ ? Stopping() : absl::DeadlineExceededError("the step under way does not end");
  }
  absl::StatusOr<RenderRecording> result = std::move(result_);
  if (result.ok() && num_steps_ == 0) result = NothingRan(timeout);
  Reset();
  return result;
}

void StepProfiler::Reset() {
  wanted_.store(false, std::memory_order_release);
  state_ = State::kIdle;
  abandoned_ = enough_ = false;
  num_wanted_ = num_steps_ = 0;
}

void StepProfiler::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

void StepProfiler::SetWake(std::function<void()> wake) {
  MutexLock lock(&wake_mutex_);
  wake_ = std::move(wake);
}

void StepProfiler::Wake() {
  MutexLock lock(&wake_mutex_);
  if (wake_) wake_();
}

void StepProfiler::Begin() {
  {
    MutexLock lock(&mutex_);
    if (state_ != State::kWanted) return;
    state_ = State::kRecording;
    wanted_.store(false, std::memory_order_release);
  }
  absl::Status status = recorder_->Start();
  recording_ = status.ok();
  if (recording_) return;
  MutexLock lock(&mutex_);
  result_ = std::move(status);
  state_ = State::kDone;
  changed_.NotifyAll();
}

void StepProfiler::Count(bool ran_step) {
  {
    MutexLock lock(&mutex_);
    if (ran_step) ++num_steps_;
    if (num_steps_ < num_wanted_ && !enough_ && !closed_) return;
  }
  Finish();
}

void StepProfiler::Finish() {
  absl::StatusOr<RenderRecording> result = recorder_->Stop();
  recording_ = false;
  MutexLock lock(&mutex_);
  result_ = std::move(result);
  state_ = State::kDone;
  if (abandoned_) Reset();
  changed_.NotifyAll();
}

void StepProfiler::OnEngineStop() {
  if (recording_) Finish();
  Close();
}

}  // namespace spotlight::engine
