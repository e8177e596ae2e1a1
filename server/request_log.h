// One JSON line per finished call on standard output: id, sizes, timings, status. Never text of a prompt or an answer.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "server/call_record.h"
#include "server/dropped_lines.h"

namespace spdlog {
class logger;
}

namespace spotlight::server {

// The line without its end: one flat JSON object.
std::string RequestLogLine(const CallRecord& record, double unix_seconds);

// Thread-safe. Never waits for the reader of the log: when its buffer is full the oldest lines are dropped. When it
// begins to lose lines it says so in the program's log.
class RequestLog {
 public:
  explicit RequestLog(int fd);  // stays the caller's
  ~RequestLog();                // writes out what is buffered
  void Write(const CallRecord& record);
  int64_t num_dropped() const { return dropped_->count(); }

 private:
  const std::shared_ptr<DroppedLines> dropped_;
  std::shared_ptr<spdlog::logger> logger_;
  std::atomic<size_t> num_overrun_{0};  // of the buffer's count, what has gone to dropped_
};

}  // namespace spotlight::server
