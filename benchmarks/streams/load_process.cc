#include "benchmarks/streams/load_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/bench/load_run.h"
#include "client/bench/summary.h"
#include "client/generate_client.h"

namespace spotlight::benchmarks {
namespace {

struct Order {
  int port, num_streams, prompt_tokens, num_tokens, vocab_size;
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

LoadRound Obey(const Order& order, std::map<int, Channels>* channels_by_port) {
  Channels& channels = (*channels_by_port)[order.port];
  if (channels.empty()) {
    for (int i = 0; i < 4; ++i) {
      channels.push_back(client::CreateChannel("127.0.0.1:" + std::to_string(order.port), /*own_connection=*/true));
    }
  }
  client::bench::WorkloadOptions options;
  options.vocab_size = order.vocab_size;
  options.input = {order.prompt_tokens, order.prompt_tokens};
  options.output = client::bench::LengthRange{order.num_tokens, order.num_tokens};
  options.base.mutable_stopping()->set_ignore_eos(true);
  options.base.mutable_sampling()->set_temperature(0);
  client::bench::LoadOptions load;
  load.num_requests = order.num_streams;
  client::Cancellation cancellation;
  const double cpu_seconds = CpuSeconds();
  const auto records = RunLoad(load, client::bench::Workload(options), channels, &cancellation, nullptr);
  LoadRound round;
  round.client_cpu_seconds = CpuSeconds() - cpu_seconds;
  const client::bench::Summary summary = client::bench::SummarizeRun(records, {}, {});
  round.seconds = summary.duration;
  round.tokens = summary.output_tokens;
  round.messages = summary.messages;
  round.failed = summary.failed;
  if (round.failed > 0) {
    const client::bench::Failures& failures = summary.failures.begin()->second;
    std::snprintf(round.first_failure, sizeof(round.first_failure), "%s", failures.first_message.c_str());
  }
  return round;
}

}  // namespace

LoadProcess::LoadProcess() {
  int orders[2], rounds[2];
  if (pipe(orders) != 0 || pipe(rounds) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(orders[1]);
    std::map<int, Channels> channels;
    for (Order order; read(orders[0], &order, sizeof(order)) == sizeof(order);) {
      const LoadRound round = Obey(order, &channels);
      if (write(rounds[1], &round, sizeof(round)) != sizeof(round)) break;
    }
    _exit(0);
  }
  close(orders[0]);
  close(rounds[1]);
  orders_ = orders[1];
  rounds_ = rounds[0];
}

LoadProcess::~LoadProcess() {
  close(orders_);
  close(rounds_);
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

absl::optional<LoadRound> LoadProcess::Run(int port, int num_streams, int prompt_tokens, int num_tokens,
                                           int vocab_size) {
  const Order order = {port, num_streams, prompt_tokens, num_tokens, vocab_size};
  LoadRound round;
  if (write(orders_, &order, sizeof(order)) != sizeof(order)) return absl::nullopt;
  if (read(rounds_, &round, sizeof(round)) != sizeof(round)) return absl::nullopt;
  return round;
}

}  // namespace spotlight::benchmarks
