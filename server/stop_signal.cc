#include "server/stop_signal.h"

#include <signal.h>
#include <unistd.h>

#include <utility>

namespace spotlight::server {

StopSignal::StopSignal() : signals_({SIGTERM, SIGINT}, [this](int number) { OnSignal(number); }) {}

bool StopSignal::Wait() {
  MutexLock lock(&mutex_);
  while (!happened_) condition_.Wait(&mutex_);
  happened_ = false;
  return signalled_;
}

void StopSignal::Wake() {
  MutexLock lock(&mutex_);
  happened_ = true;
  condition_.NotifyAll();
}

void StopSignal::OnSignal(int number) {
  MutexLock lock(&mutex_);
  // Not left to the default action, which the kernel drops for a container's first process.
  if (std::exchange(signalled_, true)) _exit(128 + number);
  happened_ = true;
  condition_.NotifyAll();
}

}  // namespace spotlight::server
