#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace spotlight::server {
namespace {

// A million tokens are 3 MB of ids and 5 MB of text; a chat's messages add their own.
constexpr int kMaxReceiveBytes = 64 << 20;
constexpr int kMinPingIntervalMs = 10 * 1000;

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
}

void Server::Drain(absl::Duration grace) {
  SetState(ServingState::kDraining);
  engine::Engine* engine = engine_.load();
  if (engine != nullptr) engine->Drain(grace);
}

void Server::Shutdown() {
  if (grpc_ == nullptr) return;
  SetState(ServingState::kDraining);
  // Watches of health never end by themselves; a stream's last message is on its way already.
  grpc_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  grpc_->Wait();
  grpc_ = nullptr;
  http_ = nullptr;  // it asks the engine for its load
}

void Server::SetState(ServingState state) {
  // A failed engine stays failed.
  ServingState current = state_.load();
  do {
    if (current == ServingState::kFailed) return;
  } while (!state_.compare_exchange_weak(current, state));
  const bool ready = state == ServingState::kServing;
  health_.Set(state != ServingState::kFailed, ready);
  metrics_.SetServing(ready);
}

void Server::OnCallEnd(const CallRecord& record) {
  metrics_.OnCallEnd(record);
  // A device fault ends its requests with INTERNAL, and there is none without a request.
  if (record.status.code() == absl::StatusCode::kInternal) {
    const auto load = Load();
    if (load.has_value() && !load->healthy) SetState(ServingState::kFailed);
  }
  if (on_call_end_) on_call_end_(record);
}

absl::optional<engine::EngineLoad> Server::Load() const {
  const engine::Engine* engine = engine_.load();
  if (engine == nullptr) return absl::nullopt;
  return engine->Load();
}

absl::Status Server::Live() const {
  if (state() == ServingState::kFailed) return absl::InternalError("the engine has stopped after a device fault");
  return absl::OkStatus();
}

absl::Status Server::Ready() const {
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
