#include "server/stop_signal.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace spotlight::server {
namespace {

std::atomic<int> signal_event_fd{-1};
std::atomic<bool> signalled{false};

void WriteEvent(int fd) {
  const uint64_t one = 1;
  const ssize_t written = write(fd, &one, sizeof(one));
  static_cast<void>(written);  // only a counter at its limit of 2^64 refuses
}

void OnSignal(int number) {
  // Not left to the default action, which the kernel drops for a container's first process.
  if (signalled.exchange(true)) _exit(128 + number);
  const int saved_errno = errno;
  WriteEvent(signal_event_fd);
  errno = saved_errno;
}

}  // namespace

StopSignal::StopSignal() : event_fd_(eventfd(0, EFD_CLOEXEC)) {
  signalled = false;
  signal_event_fd = event_fd_;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

StopSignal::~StopSignal() {
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  close(event_fd_);
}

bool StopSignal::Wait() {
  uint64_t count = 0;
  while (read(event_fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  return signalled;
}

void StopSignal::Wake() {
  WriteEvent(event_fd_);
}

}  // namespace spotlight::server
