#pragma once

#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"

namespace spotlight::testing {

// What goes to the program's log while this lives.
class CapturedLog {
 public:
  CapturedLog()
      : before_(spdlog::default_logger()), sink_(std::make_shared<spdlog::sinks::ostream_sink_mt>(text_, true)) {
    auto logger = std::make_shared<spdlog::logger>("captured", sink_);
    logger->set_pattern("%L %v");
    spdlog::set_default_logger(std::move(logger));
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }

  // Only once nobody writes any more.
  std::string text() const { return text_.str(); }

 private:
  std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
  std::shared_ptr<spdlog::sinks::ostream_sink_mt> sink_;
};

}  // namespace spotlight::testing
