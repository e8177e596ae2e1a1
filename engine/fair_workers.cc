#include "engine/fair_workers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/admission/waiting_shares.h"

namespace spotlight::engine {
namespace {

// A task costs something however short its text is.
constexpr int64_t kLeastServed = 1024;

}  // namespace

FairWorkers::FairWorkers(int num_threads, const WorkBounds& bounds) : bounds_(bounds) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

FairWorkers::~FairWorkers() {
  Stop();
}

void FairWorkers::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

absl::Status FairWorkers::CheckRoom(const Task& task) const {
  const int64_t free_tasks = bounds_.max_tasks - num_tasks_;
  if (free_tasks <= 0) {
    return absl::ResourceExhaustedError(absl::StrCat("encoding_queue: full, ", num_tasks_,
                                                     " texts wait to be encoded, the bound is ", bounds_.max_tasks));
  }
  if (num_tasks_ > 0 && num_bytes_ + task.num_bytes > bounds_.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("encoding_queue: full, ", num_bytes_,
                                                     " bytes of text wait to be encoded, ", task.num_bytes,
                                                     " more exceed the bound of ", bounds_.max_bytes));
  }
  const auto line = lines_.find(task.caller);
  if (line == lines_.end()) return absl::OkStatus();
  const auto callers = static_cast<int64_t>(line->second.tasks.size());
  if (WaitingShares::IsFull(callers, free_tasks) ||
      WaitingShares::IsFull(line->second.num_bytes, bounds_.max_bytes - num_bytes_)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("caller_share: ", callers, " texts of ", line->second.num_bytes,
                     " bytes that wait to be encoded are the caller's, the bounds of all are ", bounds_.max_tasks,
                     " and ", bounds_.max_bytes));
  }
  return absl::OkStatus();
}

absl::Status FairWorkers::Post(Task task) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckRoom(task); !status.ok()) return status;
  num_tasks_ += 1;
  num_bytes_ += task.num_bytes;
  Line& line = lines_[task.caller];
  if (line.tasks.empty()) line.served = std::max(line.served, served_);
  line.num_bytes += task.num_bytes;
  line.tasks.push_back(std::move(task));
  changed_.NotifyOne();
  return absl::OkStatus();
}

FairWorkers::Task FairWorkers::TakeNext() {
  Line* next = nullptr;
  for (auto& [caller, line] : lines_) {
    if (!line.tasks.empty() && (next == nullptr || line.served < next->served)) next = &line;
  }
  served_ = next->served;
  next->served += std::max(next->tasks.front().num_bytes, kLeastServed);
  Task task = Remove(next, next->tasks.begin());
  for (auto line = lines_.begin(); line != lines_.end();) {
    // With nothing left to share, what was had before does not count either.
    const bool forgotten = line->second.tasks.empty() && (num_tasks_ == 0 || line->second.served <= served_);
    line = forgotten ? lines_.erase(line) : std::next(line);
  }
  return task;
}

FairWorkers::Task FairWorkers::Remove(Line* line, std::deque<Task>::iterator task) {
  Task removed = std::move(*task);
  num_tasks_ -= 1;
  num_bytes_ -= removed.num_bytes;
  line->num_bytes -= removed.num_bytes;
  line->tasks.erase(task);
  return removed;
}

std::function<void()> FairWorkers::Withdraw(const std::string& caller, const std::string& id) {
  MutexLock lock(&mutex_);
  const auto line = lines_.find(caller);
  if (line == lines_.end()) return nullptr;
  std::deque<Task>& tasks = line->second.tasks;
  const auto found = std::find_if(tasks.begin(), tasks.end(), [&](const Task& task) { return task.id == id; });
  return found == tasks.end() ? nullptr : Remove(&line->second, found).run;
}

void FairWorkers::Work() {
  while (true) {
    std::function<void()> run;
    {
      MutexLock lock(&mutex_);
      while (!stopping_ && num_tasks_ == 0) changed_.Wait(&mutex_);
      if (num_tasks_ == 0) return;
      run = TakeNext().run;
    }
    run();
  }
}

}  // namespace spotlight::engine
