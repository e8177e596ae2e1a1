// What a command sees of the process around it, so that tests can stand in for the terminal.
#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/interrupts.h"

namespace spotlight::client {

struct Console {
  int in_fd = 0;
  bool in_is_terminal = false;
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  Interrupts* interrupts = nullptr;
  std::string default_server;  // what --server is when not given
  std::string default_token;   // what is sent when no --token-file is given; empty: none
};

enum class ReadResult { kLine, kEnd, kInterrupted, kFailed };

// Reads a file descriptor, and stops when an interruption comes. Not owned. Thread-compatible.
class InputReader {
 public:
  InputReader(int fd, const Interrupts* interrupts) : fd_(fd), interrupts_(interrupts) {}

  // `line` without its newline. A last line without one counts.
  ReadResult ReadLine(std::string* line);
  // All that is left; kEnd when it is there.
  ReadResult ReadAll(std::string* text);

 private:
  ReadResult Fill();

  int fd_;
  const Interrupts* interrupts_;
  std::string buffer_;
};

// Writes and flushes. False when nobody reads any more or the disk is full: `*reason` is then OK for a closed pipe,
// which calls for silence, and an error otherwise.
bool Write(std::ostream* out, absl::string_view text, absl::Status* reason);

}  // namespace spotlight::client
