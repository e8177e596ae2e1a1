#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace spotlight::server {
namespace {

// A million tokens are 3 MB of ids and 5 MB of text; a chat's messages add their own.
constexpr int kMaxReceiveBytes = 64 << 20;
constexpr int kMinPingIntervalMs = 10 * 1000;
// A host that vanished without a word is noticed within the sum of these, and its requests end.
constexpr int kKeepaliveTimeMs = 60 * 1000;
constexpr int kKeepaliveTimeoutMs = 20 * 1000;
// What gRPC's own buffers may hold, all connections together, before it pushes back.
constexpr size_t kGrpcMemoryBytes = 1 << 30;
constexpr int kMaxStreamsPerConnection = 1024;
// How soon a stopped engine shows in the health service when nobody calls.
constexpr std::chrono::seconds kEnginePollInterval(1);

// Linking gRPC's reflection library turns it on for every server of the process; this makes it one server's choice.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool enabled) : enabled_(enabled) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    auto reflection = std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>();
    const std::string name = reflection->name();
    plugins->erase(
        std::remove_if(plugins->begin(), plugins->end(), [&name](const auto& p) { return p->name() == name; }),
        plugins->end());
    if (enabled_) plugins->push_back(std::move(reflection));
  }

 private:
  const bool enabled_;
};

}  // namespace

Server::Server(const ServerOptions& options, CallObserver on_call_end)
    : on_call_end_(std::move(on_call_end)),
      metrics_(options.model_name),
      generation_([this](const CallRecord& record) { OnCallEnd(record); }) {
  SetState(ServingState::kLoading);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, CallObserver on_call_end) {
  std::unique_ptr<Server> server(new Server(options, std::move(on_call_end)));
  if (absl::Status status = server->Listen(options); !status.ok()) return status;
  return server;
}

absl::Status Server::Listen(const ServerOptions& options) {
  if (absl::Status status = CheckBindable(options.listen); !status.ok()) return status;
  HttpPages pages;
  pages.metrics = [this] { return metrics_.Text(Load()); };
  pages.live = [this] { return Live(); };
  pages.ready = [this] { return Ready(); };
  auto http = HttpServer::Start(options.http, std::move(pages));
  if (!http.ok()) return http.status();
  http_ = *std::move(http);
  http_port_ = http_->port();

  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen.ToString(), grpc::InsecureServerCredentials(), &grpc_port_);
  // Without this a second server shares the port, and each gets half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping through a prefill of minutes; gRPC's default answers the third ping with GOAWAY "too_many_pings".
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // By default the pings stop after two without data, and a prefill sends none for minutes.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.SetResourceQuota(grpc::ResourceQuota("server").Resize(kGrpcMemoryBytes));
  // gRPC 1.51's bandwidth probing stalls messages of megabytes for 10 s, seen in 1 of 80 under load. Fixed windows do
  // not.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder.SetMaxSendMessageSize(-1);
  builder.SetOption(std::make_unique<ReflectionOption>(options.reflection));
  builder.RegisterService(&generation_);
  builder.RegisterService(&health_);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || grpc_port_ == 0) {
    return absl::UnavailableError(absl::StrCat(options.listen.ToString(), ": cannot be listened on"));
  }
  return absl::OkStatus();
}

Server::~Server() {
  Shutdown();
}

void Server::Serve(engine::Engine* engine, const std::string& libtorch_version, absl::Duration load_time) {
  metrics_.OnLoaded(engine->model(), engine->options(), libtorch_version, absl::ToDoubleSeconds(load_time));
  generation_.Serve(engine, libtorch_version);
  engine_.store(engine);
  SetState(ServingState::kServing);
  engine_watch_ = std::thread([this] { WatchEngine(); });
}

void Server::Drain(absl::Duration grace) {
  SetState(ServingState::kDraining);
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(grace, absl::Hours(24)));
  engine::Engine* engine = engine_.load();
  if (engine != nullptr) engine->Drain(grace);
  generation_.WaitForCalls(deadline);  // readers may be slower than the engine
}

void Server::Shutdown() {
  if (grpc_ == nullptr) return;
  SetState(ServingState::kDraining);
  // Watches of health never end by themselves; a stream's last message is on its way already.
  grpc_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  grpc_->Wait();
  grpc_ = nullptr;
  http_ = nullptr;  // it asks the engine for its load
  {
    MutexLock lock(&watch_mutex_);
    watch_stopping_ = true;
  }
  watch_ends_.NotifyAll();
  if (engine_watch_.joinable()) engine_watch_.join();
}

void Server::SetState(ServingState state) {
  MutexLock lock(&state_mutex_);
  if (state_.load() == ServingState::kFailed) return;  // a failed engine stays failed
  state_.store(state);
  const bool ready = state == ServingState::kServing;
  health_.Set(state != ServingState::kFailed, ready);
  metrics_.SetServing(ready);
}

void Server::OnCallEnd(const CallRecord& record) {
  if (!record.status.ok()) PollEngine();
  metrics_.OnCallEnd(record, state() == ServingState::kDraining);
  if (on_call_end_) on_call_end_(record);
}

void Server::PollEngine() {
  const auto load = Load();
  if (load.has_value() && !load->healthy) SetState(ServingState::kFailed);
}

void Server::WatchEngine() {
  MutexLock lock(&watch_mutex_);
  while (!watch_stopping_) {
    PollEngine();
    watch_ends_.WaitFor(&watch_mutex_, kEnginePollInterval);
  }
}

absl::optional<engine::EngineLoad> Server::Load() const {
  const engine::Engine* engine = engine_.load();
  if (engine == nullptr) return absl::nullopt;
  return engine->Load();
}

absl::Status Server::Live() {
  PollEngine();
  if (state() == ServingState::kFailed) return absl::InternalError("the engine has stopped after a device fault");
  return absl::OkStatus();
}

absl::Status Server::Ready() {
  PollEngine();
  switch (state()) {
    case ServingState::kServing:
      return absl::OkStatus();
    case ServingState::kLoading:
      return absl::UnavailableError("loading the model");
    case ServingState::kDraining:
      return absl::UnavailableError("draining");
    case ServingState::kFailed:
      break;
  }
  return Live();
}

}  // namespace spotlight::server
