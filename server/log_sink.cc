#include "server/log_sink.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <system_error>

namespace spotlight::server {
namespace {

constexpr int kPatienceMs = 1000;

std::string ErrorText() {
  return std::generic_category().message(errno);
}

}  // namespace

void LogSink::sink_it_(const spdlog::details::log_msg& line) {
  spdlog::memory_buf_t text;
  formatter_->format(line, text);
  const std::string failure = Write(text.data(), text.size());
  if (!failure.empty()) dropped_->Add(1, failure);
}

std::string LogSink::Write(const char* data, size_t size) {
  while (size > 0) {
    pollfd writable = {fd_, POLLOUT, 0};
    const int ready = poll(&writable, 1, stuck_ ? 0 : kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    stuck_ = ready == 0;
    if (stuck_) return "what it is written to takes nothing";
    if (ready < 0) return ErrorText();
    // A pipe that is ready takes that much without blocking.
    const ssize_t written = write(fd_, data, std::min<size_t>(size, PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrorText();
    if (written == 0) return "nothing was written";
    data += written;
    size -= static_cast<size_t>(written);
  }
  return "";
}

}  // namespace spotlight::server
