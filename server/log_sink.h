// A log's way out of the process that never stops it: a full disk, a closed pipe or a reader that does not read costs
// lines and nothing else.
#pragma once

#include <mutex>

#include "spdlog/sinks/base_sink.h"

namespace spotlight::server {

// Thread-safe.
class LogSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // `fd` stays open, and is the caller's.
  explicit LogSink(int fd) : fd_(fd) {}

 private:
  void sink_it_(const spdlog::details::log_msg& line) override;
  void flush_() override {}

  const int fd_;
  bool stuck_ = false;  // the latest line found no room in time: the next ones do not wait
};

}  // namespace spotlight::server
