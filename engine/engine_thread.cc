#include "engine/engine_thread.h"

#include <future>
#include <memory>
#include <utility>

namespace spotlight::engine {

EngineThread::EngineThread() : thread_([this] { RunAll(); }) {}

EngineThread::~EngineThread() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void EngineThread::Run(const std::function<void()>& work) {
  const auto task = std::make_shared<std::packaged_task<void()>>(work);
  std::future<void> result = task->get_future();
  Start([task] { (*task)(); });
  result.get();
}

void EngineThread::Start(std::function<void()> work) {
  {
    MutexLock lock(&mutex_);
    work_.push_back(std::move(work));
  }
  changed_.NotifyOne();
}

void EngineThread::RunAll() {
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(&mutex_);
      while (work_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

}  // namespace spotlight::engine
