// One JSON line per finished call on standard output: id, sizes, timings, status. Never text of a prompt or an answer.
#pragma once

#include <memory>
#include <string>

#include "server/call_record.h"

namespace spdlog {
class logger;
}

namespace spotlight::server {

// The line without its end: one flat JSON object.
std::string RequestLogLine(const CallRecord& record, double unix_seconds);

// Thread-safe. Never waits for the reader of the log: when its buffer is full the oldest lines are dropped.
class RequestLog {
 public:
  RequestLog();
  ~RequestLog();  // writes out what is buffered
  void Write(const CallRecord& record);

 private:
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace spotlight::server
