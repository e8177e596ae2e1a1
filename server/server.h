// Both ports and everything behind them but the engine: what main and tests start.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "grpcpp/server.h"
#include "server/call_record.h"
#include "server/generate_service.h"
#include "server/health_service.h"
#include "server/histogram_buckets.h"
#include "server/http_server.h"
#include "server/listen_address.h"
#include "server/load_report.h"
#include "server/metrics.h"
#include "server/orca_service.h"
#include "server/profile_page.h"
#include "server/request_reads.h"
#include "server/security/authorizer.h"
#include "server/security/file_watch.h"
#include "server/security/options.h"
#include "server/security/tls.h"
#include "server/stream_places.h"
#include "server/tracing/options.h"
#include "server/tracing/tracer.h"

namespace spotlight::server {

// A larger message is refused. A million tokens are 3 MB of ids and 5 MB of text; languages and code that take more
// bytes a token have room, as has a chat with its roles.
constexpr int kMaxRequestBytes = 16 << 20;

struct ServerOptions {
  ListenAddress listen{"127.0.0.1", 50051};  // gRPC
  ListenAddress http{"127.0.0.1", 9090};
  SecurityOptions security;
  // These two answer anyone who can connect: gRPC serves them itself, and asks for no token.
  bool reflection = true;
  bool channelz = false;
  bool load_reports = true;  // ORCA: with each call and by its own service
  // Watches of health and load reports out of band, which need no token and never end by themselves.
  int64_t max_open_streams = 4096;
  // Connections older than this are asked to go, so that clients find new replicas; 0: never. Their streams then have
  // `connection_grace` to end; 0: as long as they take.
  absl::Duration max_connection_age;
  absl::Duration connection_grace;
  // A client that has sent nothing for `keepalive_time` is pinged, in a call or not. Without an answer in
  // `keepalive_timeout` its host is gone, and its requests end.
  absl::Duration keepalive_time = absl::Seconds(60);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  absl::Duration unread_patience = absl::Minutes(5);  // for a client that takes nothing (unread_watch.h); 0: no bound
  bool share_prefix_cache = false;                    // among callers told apart by tokens or certificates, too
  std::string model_name;                             // the metrics' label
  HistogramBuckets histogram_buckets;                 // in the place of the metrics' own
  TracingOptions tracing;
  absl::Duration request_patience = absl::Minutes(1);  // for a request's message to be whole; 0: no bound
  // What gRPC may hold of messages under way before it cancels streams, whoever's they are. 0: a quarter of the
  // machine's memory, or of the container's.
  int64_t grpc_memory_bytes = 0;
  std::function<DroppedLogLines()> dropped_log_lines;  // asked at each scrape; null: none
};

enum class ServingState { kLoading, kServing, kDraining, kFailed };

// Thread-safe, but for the order Start, Serve, Drain, Shutdown. The engine that it serves outlives it.
class Server {
 public:
  // Opens both ports, not serving yet. Errors name the address. `on_call_end` may be null.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, CallObserver on_call_end);
  ~Server();  // Shutdown with no grace
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  engine::StatsObserver* stats() { return &metrics_; }
  int grpc_port() const { return grpc_port_; }
  int http_port() const { return http_port_; }
  ServingState state() const { return state_.load(); }

  // How much of the model is there, 0 to 1: /readyz says it until Serve.
  void OnLoadProgress(double share) { loaded_share_.store(share); }

  // `profiler` is the engine's, or null.
  void Serve(engine::Engine* engine, const std::string& libtorch_version, absl::Duration load_time,
             engine::StepProfiler* profiler = nullptr);

  // Not ready from now on; returns when the running requests have ended or `grace` has passed and they were cancelled.
  void Drain(absl::Duration grace);

  // Ends what is left and closes both ports; the engine is not used any more.
  void Shutdown();

 private:
  explicit Server(const ServerOptions& options, CallObserver on_call_end);
  absl::Status Listen(const ServerOptions& options);
  absl::Status ReadCredentials(const SecurityOptions& options);
  absl::Status StartTracing(const TracingOptions& options);
  void OnCallEnd(const CallRecord& record);
  bool SetState(ServingState state);  // false: it has failed already, for good
  void PollEngine();                  // fails the server once the engine has stopped
  void LogCaptureFailure();           // if there was one since
  void WatchEngine();                 // calls these two until told to stop
  absl::Status Live();                // these two ask the engine anew
  absl::Status Ready();
  absl::optional<engine::EngineLoad> Load() const;
  absl::StatusOr<std::string> AnswerProfile(const ProfileCall& call);

  const CallObserver on_call_end_;
  const std::string model_name_;
  Metrics metrics_;
  const std::function<DroppedLogLines()> dropped_log_lines_;
  const std::string listen_host_;
  std::unique_ptr<Tracer> tracer_;  // null: no traces
  std::atomic<engine::Engine*> engine_{nullptr};
  std::atomic<engine::StepProfiler*> profiler_{nullptr};
  const absl::Status profile_port_;  // whether profiles are served at all
  std::atomic<ServingState> state_{ServingState::kLoading};
  std::atomic<double> loaded_share_{0};
  Mutex state_mutex_;  // orders changes of state_ with what they tell health_ and metrics_
  Tls tls_;
  Authorizer authorizer_;
  LoadReporter load_reporter_;
  RequestReads request_reads_;  // of all services
  StreamPlaces open_streams_;   // of the two that follow
  HealthService health_;
  OrcaService orca_;
  GenerateService generation_;
  int grpc_port_ = 0;
  int http_port_ = 0;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<HttpServer> http_;

  Mutex watch_mutex_;
  CondVar watch_ends_;
  bool watch_stopping_ ABSL_GUARDED_BY(watch_mutex_) = false;
  std::thread engine_watch_;
  std::unique_ptr<FileWatch> credentials_;
};

}  // namespace spotlight::server
