// What spotlight-bench itself costs and how exactly it looks, against a server of known times in a process of its own.
//
// flood: the server writes as fast as the client reads; the most tokens a second, and the client's CPU time for each.
// paced: every stream gets a token each 50 ms (200 ms for the 4,096); what the client reports beyond the schedule is
// its error and the machine's, for thousands of streams on gRPC's few threads. bazel run
// //tests/client/bench:overhead_benchmark
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "client/bench/load_run.h"
#include "client/bench/summary.h"
#include "client/channel.h"
#include "client/generate_client.h"
#include "tests/client/bench/timed_generation_server.h"

namespace spotlight::testing {
namespace {

using client::bench::Summary;

// A TimedGenerationServer in a child process, which must be forked before this process uses gRPC.
class ServerProcess {
 public:
  explicit ServerProcess(TokenSchedule schedule) {
    int fds[2];
    if (pipe(fds) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const TimedGenerationServer server(schedule);
      const std::string address = server.address() + "\n";
      if (write(fds[1], address.data(), address.size()) < 0) _exit(1);
      for (;;) pause();
    }
    close(fds[1]);
    char c;
    while (read(fds[0], &c, 1) == 1 && c != '\n') address_ += c;
    close(fds[0]);
  }
  ~ServerProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  const std::string& address() const { return address_; }

 private:
  pid_t pid_;
  std::string address_;
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

struct Measured {
  Summary summary;
  double cpu_seconds;
};

Measured Run(const ServerProcess& server, int num_streams, int num_tokens) {
  client::bench::WorkloadOptions workload;
  workload.vocab_size = 1000;
  workload.input = {16, 16};
  workload.output = client::bench::LengthRange{num_tokens, num_tokens};
  client::bench::LoadOptions load;
  load.num_requests = num_streams;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < (num_streams + 99) / 100; ++i) {
    channels.push_back(client::CreateChannel(server.address(), /*own_connection=*/true));
  }
  client::Cancellation cancellation;
  client::bench::LoadOptions connect;
  connect.num_requests = channels.size();
  const client::bench::Workload requests(workload);
  if (num_tokens > 1) {
    client::bench::WorkloadOptions one = workload;
    one.output = client::bench::LengthRange{1, 1};
    RunLoad(connect, client::bench::Workload(one), channels, &cancellation, nullptr);
  }
  const double cpu_seconds = CpuSeconds();
  const auto records = RunLoad(load, requests, channels, &cancellation, nullptr);
  return {client::bench::SummarizeRun(records, {}, {99}), CpuSeconds() - cpu_seconds};
}

int Benchmark() {
  TokenSchedule paced, slower;
  paced.ttft = slower.ttft = std::chrono::milliseconds(500);  // all streams are open by then
  paced.interval = std::chrono::milliseconds(50);
  slower.interval = std::chrono::milliseconds(200);
  const ServerProcess flood_server((TokenSchedule())), paced_server(paced), slower_server(slower);
  bool failed = false;
  std::printf("%-6s %8s %12s %16s %14s %14s %14s\n", "", "streams", "tokens/s", "client us/token", "TTFT mean ms",
              "ITL mean ms", "ITL p99 ms");
  for (const int num_streams : {1, 32, 256, 1024}) {
    const Measured run = Run(flood_server, num_streams, 200000 / num_streams);
    failed = failed || run.summary.failed > 0;
    std::printf("%-6s %8d %12.0f %16.2f\n", "flood", num_streams, run.summary.output_throughput,
                run.cpu_seconds * 1e6 / run.summary.output_tokens);
  }
  for (const int num_streams : {32, 256, 1024, 4096}) {
    const Measured run =
        Run(num_streams > 2000 ? slower_server : paced_server, num_streams, num_streams > 2000 ? 10 : 40);
    failed = failed || run.summary.failed > 0;
    std::printf("%-6s %8d %12.0f %16.2f %14.2f %14.2f %14.2f\n", "paced", num_streams,
                run.summary.output_tokens / (run.summary.duration - 0.5),
                run.cpu_seconds * 1e6 / run.summary.output_tokens, run.summary.ttft.mean * 1e3,
                run.summary.itl.mean * 1e3, run.summary.itl.percentiles[0] * 1e3);
  }
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace spotlight::testing

int main() {
  return spotlight::testing::Benchmark();
}
