#include "tests/soak/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace spotlight::soak {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

ServerProcess::ServerProcess(const std::string& program, const std::string& model, const std::string& folder,
                             const std::vector<std::string>& flags)
    : out_path_(folder + "/server.out"), err_path_(folder + "/server.err") {
  std::vector<std::string> words = {program,    "--model",     model,    "--threads",  "1",
                                    "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int out = open(out_path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  const int err = open(err_path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  process_ = pid_;
  close(out);
  close(err);
}

ServerProcess::~ServerProcess() {
  if (!running()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

absl::Status ServerProcess::WaitReady(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (!absl::StrContains(log(), " ready after ")) {
    if (!running() || absl::Now() > end)
      return absl::UnavailableError(absl::StrCat("the server is not ready:\n", log()));
    absl::SleepFor(absl::Milliseconds(20));
  }
  std::smatch found;
  const std::string text = log();
  if (!std::regex_search(text, found, std::regex(R"(gRPC on (\S+:\d+), HTTP on http://[^:]+:(\d+))"))) {
    return absl::InternalError(absl::StrCat("the server does not tell its ports:\n", text));
  }
  grpc_address_ = found[1];
  http_port_ = std::stoi(found[2]);
  return absl::OkStatus();
}

absl::StatusOr<client::bench::MetricSamples> ServerProcess::Metrics() const {
  return client::bench::FetchMetrics(absl::StrCat("http://127.0.0.1:", http_port_, "/metrics"));
}

int64_t ServerProcess::StatusBytes(const char* field) const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
  std::string line;
  while (std::getline(file, line)) {
    if (absl::StartsWith(line, field)) return std::stoll(line.substr(line.find(':') + 1)) << 10;
  }
  return 0;
}

int64_t ServerProcess::resident_bytes() const {
  return StatusBytes("VmRSS:");
}

int64_t ServerProcess::peak_resident_bytes() const {
  return StatusBytes("VmHWM:");
}

std::map<int, std::chrono::nanoseconds> ServerProcess::WaitsForCore() const {
  std::map<int, std::chrono::nanoseconds> waits;
  std::error_code ended;
  for (const auto& task : std::filesystem::directory_iterator(absl::StrCat("/proc/", process_, "/task"), ended)) {
    int64_t running = 0, waiting = 0;
    std::ifstream(task.path() / "schedstat") >> running >> waiting;
    waits[std::stoi(task.path().filename())] = std::chrono::nanoseconds(waiting);
  }
  return waits;
}

bool ServerProcess::running() {
  if (pid_ < 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return false;
}

int ServerProcess::Stop(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  if (running()) kill(pid_, SIGTERM);
  while (running()) {
    if (absl::Now() > end) return -1;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return exit_code_;
}

std::string ServerProcess::log() const {
  return ReadFile(err_path_);
}

std::map<std::string, LoggedEnd> ServerProcess::RequestLog() const {
  std::map<std::string, LoggedEnd> ends;
  std::ifstream file(out_path_);
  std::string line;
  while (std::getline(file, line)) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || !absl::StartsWith(record.value("method", ""), "Generate")) continue;
    LoggedEnd& end = ends[record.value("request_id", "")];
    ++end.count;
    end.code = record.value("code", "");
    end.completion_tokens = record.value("completion_tokens", 0);
  }
  return ends;
}

double Sum(const client::bench::MetricSamples& samples, const std::string& name) {
  return client::bench::GrowthOf({}, samples, name);
}

}  // namespace spotlight::soak
