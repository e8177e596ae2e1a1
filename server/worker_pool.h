// A few threads and a bounded queue, for work that must not hold up gRPC's threads or the engine's.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "engine/mutex.h"

namespace spotlight::server {

// Thread-safe.
class WorkerPool {
 public:
  WorkerPool(int num_threads, size_t max_queued);
  ~WorkerPool();  // runs what is queued, then joins
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False when the queue is full.
  bool Post(std::function<void()> task);

 private:
  void Work();

  const size_t max_queued_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  int num_idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// Destroys `object` on a thread of the pool; on this one when the queue is full.
template <class Object>
void DestroyOn(WorkerPool* pool, Object object) {
  pool->Post([last = std::make_shared<Object>(std::move(object))] {});
}

}  // namespace spotlight::server
