#include "server/program.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/flags.h"
#include "server/grpc_log.h"
#include "server/load_progress_log.h"
#include "server/log_sink.h"
#include "server/request_log.h"
#include "server/server.h"
#include "server/stop_signal.h"
#include "spdlog/spdlog.h"
#include "version.h"

namespace spotlight::server {
namespace {

std::string Text(const absl::Status& status) {
  return std::string(status.message());
}

void LogToStandardError(const std::shared_ptr<DroppedLines>& dropped) {
  auto logger = std::make_shared<spdlog::logger>("spotlight", std::make_shared<LogSink>(STDERR_FILENO, dropped));
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  LogGrpcErrors();
}

void LogSecurity(const SecurityOptions& security, const ListenAddress& listen) {
  std::vector<std::string> needs;
  if (security.tls.enabled()) needs.push_back("TLS");
  if (!security.tls.client_ca_file.empty()) needs.push_back("a client certificate");
  if (!security.token_file.empty()) needs.push_back("a token");
  if (!needs.empty()) spdlog::info("gRPC calls need {}", absl::StrJoin(needs, ", "));
  if (!security.tls.enabled() && !listen.is_loopback()) {
    spdlog::warn("{} is plaintext: prompts, answers and tokens cross the network unprotected", listen.ToString());
  }
}

void LogTracing(const TracingOptions& tracing) {
  if (!tracing.enabled()) return;
  spdlog::info("traces go to {}, {:g}% of those that begin here", tracing.endpoint, 100 * tracing.sample_ratio);
}

void LogReady(const ProgramOptions& options, const engine::LoadedEngine& loaded, absl::Duration load_time) {
  const engine::ModelInfo& model = loaded.engine->model();
  spdlog::info("{} ({}, {:.0f} M parameters, {} on {})", model.name, model.architecture, model.num_parameters / 1e6,
               model.dtype, model.device);
  for (const std::string& note : loaded.notes) spdlog::info("{}", note);
  const engine::EngineOptions& engine_options = loaded.engine->options();
  spdlog::info("KV cache of {} tokens; up to {} tokens a request, {} requests a step",
               int64_t{engine_options.scheduler.num_pages} * kernels::kPageTokens, model.max_context_tokens,
               engine_options.scheduler.max_running);
  spdlog::info("ready after {:.1f} s", absl::ToDoubleSeconds(load_time));
}

// After the grace: for cancelled requests and their calls to end, both ports to close, the engine to stop.
constexpr absl::Duration kShutdownTime = absl::Seconds(8);

// Ends the process unless it is destroyed in time: with 1 where the engine is what is waited for, else with 0.
class ExitAtLatest {
 public:
  explicit ExitAtLatest(absl::Duration limit)
      : thread_([this, limit] {
          std::unique_lock<std::mutex> lock(mutex_);
          const auto wait = absl::ToChronoMilliseconds(std::min(limit, absl::Hours(24 * 365)));
          if (done_.wait_for(lock, wait, [this] { return is_done_; })) return;
          if (awaits_engine_) {
            spdlog::error("ended without the engine: a step of the model has not ended, and hangs or takes too long");
            std::_Exit(1);
          }
          // A client that trickles its request byte by byte holds a thread of the HTTP port for as long as it likes.
          spdlog::info("stopped; a connection to the HTTP port was still open");
          std::_Exit(0);
        }) {}
  ~ExitAtLatest() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_done_ = true;
    }
    done_.notify_one();
    thread_.join();
  }
  void SetAwaitsEngine(bool awaits_engine) {
    const std::lock_guard<std::mutex> lock(mutex_);
    awaits_engine_ = awaits_engine;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;
  bool awaits_engine_ = true;
  std::thread thread_;  // last: runs over all of the above
};

int Serve(const ProgramOptions& options, const EngineLoader& load_engine, const std::function<bool()>& stop_loading) {
  signal(SIGPIPE, SIG_IGN);  // a log's reader may go
  StopSignal stop;           // before any other thread
  const auto dropped = std::make_shared<DroppedLines>();
  LogToStandardError(dropped);
  RequestLog request_log(STDOUT_FILENO);
  ServerOptions server_options = options.server;
  server_options.dropped_log_lines = [&request_log, dropped] {
    return DroppedLogLines{request_log.num_dropped(), dropped->count()};
  };
  auto started = Server::Start(server_options, [&request_log](const CallRecord& record) { request_log.Write(record); });
  if (!started.ok()) {
    spdlog::error("{}", Text(started.status()));
    return 1;
  }
  Server& server = **started;
  ListenAddress listen = options.server.listen;
  ListenAddress http = options.server.http;
  listen.port = server.grpc_port();
  http.port = server.http_port();
  const SecurityOptions& security = options.server.security;
  spdlog::info("spotlight-server {}: gRPC on {}, HTTP on {}://{}/metrics", kVersion, listen.ToString(),
               security.http_tls ? "https" : "http", http.ToString());
  LogSecurity(security, listen);
  LogTracing(options.server.tracing);

  spdlog::info("loading {}", options.load.model_folder);
  const absl::Time start = absl::Now();
  absl::StatusOr<engine::LoadedEngine> loaded = absl::UnknownError("not loaded");
  engine::LoadOptions load = options.load;
  load.on_progress = [&server, log = LoadProgressLog(engine::Clock::Steady())](int64_t done, int64_t total) mutable {
    server.OnLoadProgress(static_cast<double>(done) / static_cast<double>(total));
    if (const auto line = log.Line(done, total); line.has_value()) spdlog::info("{}", *line);
  };
  std::thread loader([&] {
    loaded = load_engine(load, server.stats());
    stop.Wake();
  });
  const bool stopped_early = stop.Wait();
  if (stopped_early) {
    if (stop_loading != nullptr && stop_loading()) {
      spdlog::info("stopping: what was trained so far is kept first; a second signal stops at once");
      loader.join();
      if (!loaded.ok()) spdlog::info("{}", Text(loaded.status()));
    }
    // Loading cannot be interrupted, and nothing that it holds outlives the process.
    spdlog::info("stopped while loading");
    std::_Exit(0);
  }
  loader.join();
  if (!loaded.ok()) {
    spdlog::error("{}", Text(loaded.status()));
    return 1;
  }
  const absl::Duration load_time = absl::Now() - start;
  server.Serve(loaded->engine.get(), loaded->libtorch_version, load_time, loaded->profiler);
  LogReady(options, *loaded, load_time);

  while (!stop.Wait()) {
  }
  spdlog::info("draining: running requests get {:.0f} s; a second signal stops at once",
               absl::ToDoubleSeconds(options.drain));
  {
    ExitAtLatest bound(options.drain + kShutdownTime);
    server.Drain(options.drain);
    // Its requests' calls end with them alone.
    const engine::EngineLoad left = loaded->engine->Load();
    bound.SetAwaitsEngine(left.num_running + left.num_waiting > 0);
    server.Shutdown();
    bound.SetAwaitsEngine(true);
    loaded->engine.reset();
  }
  spdlog::info("stopped");
  return 0;
}

}  // namespace

int RunProgram(int argc, const char* const* argv, const EngineLoader& load_engine,
               const std::function<bool()>& stop_loading) {
  const auto line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    std::fprintf(stderr, "spotlight-server: %s\n", Text(line.status()).c_str());
    return 2;
  }
  switch (line->action) {
    case Action::kPrintHelp:
      std::fputs(HelpText().c_str(), stdout);
      return 0;
    case Action::kPrintVersion:
      std::printf("spotlight-server %s\n", kVersion);
      return 0;
    case Action::kServe:
      break;
  }
  return Serve(line->options, load_engine, stop_loading);
}

}  // namespace spotlight::server
