#include "server/log_sink.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace spotlight::server {
namespace {

constexpr int kPatienceMs = 1000;

}  // namespace

void LogSink::sink_it_(const spdlog::details::log_msg& line) {
  spdlog::memory_buf_t text;
  formatter_->format(line, text);
  const char* data = text.data();
  size_t left = text.size();
  while (left > 0) {
    pollfd writable = {fd_, POLLOUT, 0};
    const int ready = poll(&writable, 1, stuck_ ? 0 : kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    stuck_ = ready == 0;
    if (ready <= 0) return;
    // A pipe that is ready takes that much without blocking.
    const ssize_t written = write(fd_, data, std::min<size_t>(left, PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    data += written;
    left -= static_cast<size_t>(written);
  }
}

}  // namespace spotlight::server
