#include "client/console.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace spotlight::client {

// kLine: there is more in the buffer than before.
ReadResult InputReader::Fill() {
  for (;;) {
    pollfd fds[] = {{fd_, POLLIN, 0}, {interrupts_->wake_fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return ReadResult::kFailed;
    }
    if (fds[1].revents != 0) return ReadResult::kInterrupted;
    char chunk[1 << 16];
    const ssize_t size = read(fd_, chunk, sizeof(chunk));
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size < 0) return ReadResult::kFailed;
    if (size == 0) return ReadResult::kEnd;
    buffer_.append(chunk, size);
    return ReadResult::kLine;
  }
}

ReadResult InputReader::ReadLine(std::string* line) {
  size_t newline = buffer_.find('\n');
  while (newline == std::string::npos) {
    const size_t searched = buffer_.size();
    const ReadResult result = Fill();
    if (result == ReadResult::kEnd && !buffer_.empty()) {
      line->swap(buffer_);
      buffer_.clear();
      return ReadResult::kLine;
    }
    if (result != ReadResult::kLine) return result;
    newline = buffer_.find('\n', searched);
  }
  line->assign(buffer_, 0, newline);
  buffer_.erase(0, newline + 1);
  return ReadResult::kLine;
}

ReadResult InputReader::ReadAll(std::string* text) {
  ReadResult result;
  do {
    result = Fill();
  } while (result == ReadResult::kLine);
  text->swap(buffer_);
  buffer_.clear();
  return result;
}

bool Write(std::ostream* out, absl::string_view text, absl::Status* reason) {
  errno = 0;
  out->write(text.data(), text.size());
  out->flush();
  if (out->good()) return true;
  *reason = errno == EPIPE ? absl::OkStatus()
                           : absl::UnknownError(absl::StrCat("cannot write the output: ",
                                                             errno != 0 ? strerror(errno) : "the stream is closed"));
  return false;
}

}  // namespace spotlight::client
