// The real server as a child process on the tiny test model.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/bench/server_metrics.h"

namespace spotlight::soak {

// What the server's request log says of one request.
struct LoggedEnd {
  int count = 0;
  std::string code;
  int completion_tokens = 0;
};

// Thread-compatible. Killed if it still runs at the end.
class ServerProcess {
 public:
  // `program` on free ports, with its stdout and stderr in files of `folder`.
  ServerProcess(const std::string& program, const std::string& model, const std::string& folder,
                const std::vector<std::string>& flags);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  absl::Status WaitReady(absl::Duration timeout);
  const std::string& grpc_address() const { return grpc_address_; }  // these two once it is ready
  int http_port() const { return http_port_; }

  absl::StatusOr<client::bench::MetricSamples> Metrics() const;
  int64_t resident_bytes() const;
  // All of its resident memory at its worst, so far.
  int64_t peak_resident_bytes() const;
  // Of each of its threads, by id: how long it was ready to run and had no core. Thread-safe.
  std::map<int, std::chrono::nanoseconds> WaitsForCore() const;
  bool running();
  // SIGTERM, and its exit code; -1 where it did not end in time.
  int Stop(absl::Duration timeout);

  std::string log() const;  // stderr
  // Of every generation call, by request id.
  std::map<std::string, LoggedEnd> RequestLog() const;

 private:
  int64_t StatusBytes(const char* field) const;

  std::string out_path_, err_path_;
  pid_t pid_ = -1;  // -1 once it has ended
  pid_t process_ = -1;
  int exit_code_ = -1;
  std::string grpc_address_;
  int http_port_ = 0;
};

// The sum over the series of one name.
double Sum(const client::bench::MetricSamples& samples, const std::string& name);

}  // namespace spotlight::soak
