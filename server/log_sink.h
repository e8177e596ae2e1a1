// A log's way out of the process that never stops it: a full disk, a closed pipe or a reader that does not read costs
// lines, which are counted, and nothing else.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/dropped_lines.h"
#include "spdlog/sinks/base_sink.h"

namespace spotlight::server {

// Thread-safe.
class LogSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // `fd` stays open, and is the caller's.
  LogSink(int fd, std::shared_ptr<DroppedLines> dropped) : fd_(fd), dropped_(std::move(dropped)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& line) override;
  void flush_() override {}
  std::string Write(const char* data, size_t size);  // why not, of what was not written whole

  const int fd_;
  const std::shared_ptr<DroppedLines> dropped_;
  bool stuck_ = false;  // the latest line found no room in time: the next ones do not wait
};

}  // namespace spotlight::server
