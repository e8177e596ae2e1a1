#include "benchmarks/kernels/peer.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "benchmarks/kernels/failure.h"

namespace spotlight::benchmarks {
namespace {

constexpr char kScript[] = "benchmarks/kernels/peer_benchmark.py";

// The rest of a program's output; fails unless it ended well.
std::string ReadToEnd(std::FILE* pipe) {
  std::string output;
  char buffer[4096];
  for (size_t size = 0; (size = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, size);
  if (const int status = pclose(pipe); status != 0) {
    Fail(std::string(kScript) + " ended with status " + std::to_string(status) + "\n" + output);
  }
  return output;
}

}  // namespace

Peer::Peer(std::string folder, std::string python) : folder_(std::move(folder)), python_(std::move(python)) {
  if (!folder_.empty()) build_ = popen(Command("--build_only").c_str(), "r");
}

Peer::~Peer() {
  if (build_ != nullptr) pclose(build_);
}

// Python brings its own LibTorch: this program's library path is not for it.
std::string Peer::Command(const std::string& arguments) const {
  return "env -u LD_LIBRARY_PATH '" + python_ + "' " + kScript + " --peer='" + folder_ + "' " + arguments;
}

std::map<int32_t, double> Peer::Measure(const std::vector<int32_t>& contexts, int num_samples) {
  if (build_ == nullptr || contexts.empty()) return {};
  ReadToEnd(std::exchange(build_, nullptr));
  std::string arguments = "--samples=" + std::to_string(num_samples) + " --contexts=";
  for (const int32_t context : contexts) arguments += std::to_string(context) + ",";
  std::FILE* const pipe = popen(Command(arguments).c_str(), "r");
  if (pipe == nullptr) Fail("cannot start " + python_);
  const std::string output = ReadToEnd(pipe);
  // The last line is the result; PyTorch may print before it.
  const size_t line = output.find_last_of('\n', output.size() - 2);
  const nlohmann::json result = nlohmann::json::parse(output.substr(line == std::string::npos ? 0 : line + 1));
  commit_ = result["commit"];
  std::map<int32_t, double> timings;
  for (const nlohmann::json& row : result["rows"]) {
    std::printf("public kernels at %d tokens: %.1f us (%s)\n", row["context"].get<int>(), row["us"].get<double>(),
                row["stages"].dump().c_str());
    timings[row["context"]] = row["us"];
  }
  return timings;
}

}  // namespace spotlight::benchmarks
