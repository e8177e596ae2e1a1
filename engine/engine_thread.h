// The thread that an engine's steps run on. It is there before the engine: libraries keep what they set up for the
// thread that called them (cuBLAS its handles and their workspaces, LibTorch the plans of cuDNN), so what prepares for
// steps runs here, too.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"

namespace spotlight::engine {

// Thread-safe. Work runs in the order in which it came.
class EngineThread {
 public:
  EngineThread();
  ~EngineThread();  // when all work has run

  // Returns when `work` has run; what it throws is thrown here.
  void Run(const std::function<void()>& work);
  // Returns at once. `work` must not throw.
  void Start(std::function<void()> work);

 private:
  void RunAll();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

}  // namespace spotlight::engine
