// What TLS costs the server for each streamed token: the CPU time of a server process that streams to clients of
// another process, plaintext and TLS in turn. The engine is a stand-in that costs next to nothing: what is measured is
// the edge.
// bazel run //benchmarks/security:tls_overhead
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"
#include "server/server.h"
#include "tests/testing/certificates.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/temporary_folder.h"

ABSL_FLAG(int32_t, num_streams, 32, "streams side by side, each on a connection of its own");
ABSL_FLAG(int32_t, num_tokens, 1000, "tokens of each stream");
ABSL_FLAG(int32_t, step_us, 2000, "microseconds between a stream's tokens");
ABSL_FLAG(int32_t, num_rounds, 5, "runs of each kind; the least of each is reported");

namespace spotlight::benchmarks {
namespace {

// What the client's process is told: a run on this port.
struct Order {
  int32_t port = 0;  // 0: no more
  bool tls = false;
};

bool WriteAll(int fd, const void* data, size_t size) {
  return write(fd, data, size) == static_cast<ssize_t>(size);
}

bool ReadAll(int fd, void* data, size_t size) {
  return read(fd, data, size) == static_cast<ssize_t>(size);
}

// Streams to the end; the number that failed.
int32_t RunClients(const Order& order, const std::string& ca_pem, int32_t num_streams) {
  client::ChannelSecurity security;
  security.tls = order.tls;
  security.ca_pem = ca_pem;
  std::vector<int32_t> failed(num_streams, 0);
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < num_streams; ++i) {
    threads.emplace_back([&, i] {
      const auto stub = v1::Generation::NewStub(
          client::CreateChannel(absl::StrCat("127.0.0.1:", order.port), /*own_connection=*/true, security));
      v1::GenerateRequest request;
      request.set_request_id(absl::StrCat("stream-", i));
      request.set_text("x");
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
      auto reader = stub->GenerateStream(&context, request);
      v1::GenerateStreamResponse message;
      while (reader->Read(&message)) {
      }
      const grpc::Status status = reader->Finish();
      failed[i] = !status.ok();
      if (!status.ok()) std::fprintf(stderr, "a stream failed: %s\n", status.error_message().c_str());
    });
  }
  for (std::thread& thread : threads) thread.join();
  return static_cast<int32_t>(std::count(failed.begin(), failed.end(), 1));
}

int ClientProcess(int orders, int results, const std::string& ca_pem, int32_t num_streams) {
  for (Order order; ReadAll(orders, &order, sizeof(order)) && order.port != 0;) {
    const int32_t num_failed = RunClients(order, ca_pem, num_streams);
    if (!WriteAll(results, &num_failed, sizeof(num_failed))) return 1;
  }
  return 0;
}

double CpuMicroseconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return 1e6 * static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// A token to each stream at a time, as a batch's step would.
void StreamTokens(testing::FakeEngine* engine, int32_t num_streams, int32_t num_tokens, int32_t step_us) {
  auto next = std::chrono::steady_clock::now();
  for (int32_t step = 0; step < num_tokens; ++step) {
    next += std::chrono::microseconds(step_us);
    std::this_thread::sleep_until(next);
    for (int32_t i = 0; i < num_streams; ++i) {
      engine::Delta delta;
      delta.text = " token";
      delta.token_ids = {step};
      engine->Send(absl::StrCat("stream-", i), std::move(delta));
    }
  }
  for (int32_t i = 0; i < num_streams; ++i) {
    engine->Finish(absl::StrCat("stream-", i), testing::FakeEngine::Stopped(1, num_tokens));
  }
}

// CPU microseconds of this process for each token of one run.
absl::StatusOr<double> Measure(const server::TlsOptions& tls, int orders, int results, int32_t num_streams,
                               int32_t num_tokens, int32_t step_us) {
  server::ServerOptions options;
  options.listen.port = options.http.port = 0;
  options.security.tls = tls;
  auto server = server::Server::Start(options, nullptr);
  if (!server.ok()) return server.status();
  testing::FakeEngine engine;
  (*server)->Serve(&engine, "none", absl::ZeroDuration());
  const Order order = {(*server)->grpc_port(), tls.enabled()};
  if (!WriteAll(orders, &order, sizeof(order))) return absl::InternalError("the clients' process is gone");
  for (int32_t i = 0; i < num_streams; ++i) engine.TakeRequest();
  const double start_us = CpuMicroseconds();  // connections are made, handshakes over
  StreamTokens(&engine, num_streams, num_tokens, step_us);
  int32_t num_failed = 0;
  if (!ReadAll(results, &num_failed, sizeof(num_failed))) return absl::InternalError("the clients' process is gone");
  const double cpu_us = CpuMicroseconds() - start_us;
  (*server)->Shutdown();
  if (num_failed > 0) return absl::InternalError(absl::StrCat(num_failed, " streams failed"));
  return cpu_us / (static_cast<double>(num_streams) * num_tokens);
}

// Whatever else runs on the machine only adds.
double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

int Run() {
  const int32_t num_streams = absl::GetFlag(FLAGS_num_streams);
  testing::CertificateAuthority authority("authority");
  int orders[2], results[2];
  if (pipe(orders) != 0 || pipe(results) != 0) return 1;
  const pid_t clients = fork();  // before gRPC has threads
  if (clients == 0) _exit(ClientProcess(orders[0], results[1], authority.pem(), num_streams));

  const testing::TemporaryFolder folder;
  const testing::IssuedCertificate issued = authority.Issue({"server"});
  const server::TlsOptions tls = {folder.Write("tls.crt", issued.certificate_pem),
                                  folder.Write("tls.key", issued.key_pem), ""};
  std::vector<double> plaintext_us, tls_us;
  for (int32_t round = 0; round < absl::GetFlag(FLAGS_num_rounds); ++round) {
    for (const bool encrypted : {false, true}) {
      const auto us = Measure(encrypted ? tls : server::TlsOptions(), orders[1], results[0], num_streams,
                              absl::GetFlag(FLAGS_num_tokens), absl::GetFlag(FLAGS_step_us));
      if (!us.ok()) {
        std::fprintf(stderr, "%s\n", us.status().ToString().c_str());
        return 1;
      }
      (encrypted ? tls_us : plaintext_us).push_back(*us);
    }
  }
  const Order last;
  WriteAll(orders[1], &last, sizeof(last));
  waitpid(clients, nullptr, 0);
  const double plaintext = Least(plaintext_us), encrypted = Least(tls_us);
  std::printf(
      "{\"benchmark\": \"tls_overhead\", \"num_streams\": %d, \"num_tokens\": %d, \"plaintext_cpu_us_per_token\": "
      "%.2f, "
      "\"tls_cpu_us_per_token\": %.2f, \"added_us\": %.2f, \"ratio\": %.3f}\n",
      num_streams, absl::GetFlag(FLAGS_num_tokens), plaintext, encrypted, encrypted - plaintext, encrypted / plaintext);
  return 0;
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures what TLS costs a server for each streamed token.");
  absl::ParseCommandLine(argc, argv);
  return spotlight::benchmarks::Run();
}
