#include "client/interrupts.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace spotlight::client {

Interrupts::Interrupts() : wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Interrupts::~Interrupts() {
  close(wake_fd_);
}

bool Interrupts::Notify() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (cancellation_ != nullptr) {
    if (cancellation_->cancelled()) return false;
    cancellation_->Cancel();
    return true;
  }
  if (woken_) return false;
  woken_ = true;
  return eventfd_write(wake_fd_, 1) == 0;
}

Interrupts::Scope::Scope(Interrupts* interrupts, Cancellation* cancellation) : interrupts_(interrupts) {
  std::lock_guard<std::mutex> lock(interrupts_->mutex_);
  interrupts_->cancellation_ = cancellation;
  if (interrupts_->woken_) cancellation->Cancel();
}

Interrupts::Scope::~Scope() {
  std::lock_guard<std::mutex> lock(interrupts_->mutex_);
  interrupts_->cancellation_ = nullptr;
}

}  // namespace spotlight::client
