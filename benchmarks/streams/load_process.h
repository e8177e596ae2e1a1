// Streams against a server, from a process of their own: its CPU time is not the server's.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "absl/types/optional.h"

namespace spotlight::benchmarks {

struct LoadRound {
  double seconds = 0;  // from the first request to the last status
  int64_t tokens = 0;
  int64_t messages = 0;  // that brought them
  int64_t failed = 0;
  double client_cpu_seconds = 0;
  char first_failure[160] = "";
};

// Forks in the constructor, so make it before this process has threads or uses gRPC. Thread-compatible.
class LoadProcess {
 public:
  LoadProcess();
  ~LoadProcess();
  LoadProcess(const LoadProcess&) = delete;
  LoadProcess& operator=(const LoadProcess&) = delete;

  // `num_streams` requests of `prompt_tokens` for `num_tokens` each, all at once, on 127.0.0.1:`port`. Absent when the
  // process died.
  absl::optional<LoadRound> Run(int port, int num_streams, int prompt_tokens, int num_tokens, int vocab_size);

 private:
  pid_t pid_;
  int orders_;  // to it
  int rounds_;  // from it
};

}  // namespace spotlight::benchmarks
