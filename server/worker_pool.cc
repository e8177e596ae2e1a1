#include "server/worker_pool.h"

#include <utility>

namespace spotlight::server {

WorkerPool::WorkerPool(int num_threads, size_t max_queued) : max_queued_(max_queued) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

WorkerPool::~WorkerPool() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkerPool::Post(std::function<void()> task) {
  bool wake;
  {
    MutexLock lock(&mutex_);
    if (queue_.size() >= max_queued_) return false;
    queue_.push_back(std::move(task));
    // A wake-up is a system call: the engine posts a batch at a time, and a thread that runs takes the rest itself.
    wake = num_idle_ > 0 && queue_.size() <= static_cast<size_t>(num_idle_);
  }
  if (wake) changed_.NotifyOne();
  return true;
}

void WorkerPool::Work() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      ++num_idle_;
      while (queue_.empty() && !stopping_) changed_.Wait(&mutex_);
      --num_idle_;
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace spotlight::server
