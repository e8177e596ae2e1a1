// SIGTERM and SIGINT as an event to wait for.
#pragma once

namespace spotlight::server {

// One per process at a time. The first signal is an event; a second one stops the process at once, as by default.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();  // the signals' default actions again
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Returns after a signal (true) or a Wake (false), whichever came first and was not yet returned.
  bool Wait();
  void Wake();  // thread-safe

 private:
  int event_fd_;
};

}  // namespace spotlight::server
