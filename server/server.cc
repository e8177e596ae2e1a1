#include "server/server.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/channelz_service_plugin.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/received_bytes.h"
#include "server/security/watched_credentials.h"
#include "server/tracing/call_span.h"
#include "server/wire_message.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

constexpr int kMinPingIntervalMs = 10 * 1000;
constexpr int kMaxStreamsPerConnection = 128;
// gRPC's own services, reflection and channelz, hold a thread for each open call. Nothing else takes from this bound.
constexpr int kMaxIntrospectionThreads = 32;
// How soon a stopped engine shows in the health service when nobody calls.
constexpr std::chrono::seconds kEnginePollInterval(1);
// What a collector gets at the end to take the last spans; an orchestrator's patience is counted in seconds.
constexpr absl::Duration kTraceFlushTime = absl::Seconds(2);

// What gRPC may hold of messages under way, all connections together: a quarter of the machine's memory, or of the
// container's. Beyond it gRPC cancels streams without asking whose they are; request_reads.h keeps far below.
size_t GrpcMemoryBytes(const ServerOptions& options) {
  if (options.grpc_memory_bytes > 0) return static_cast<size_t>(options.grpc_memory_bytes);
  size_t bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::ifstream limit("/sys/fs/cgroup/memory.max");  // a number, or "max"
  if (size_t container = 0; limit >> container) bytes = std::min(bytes, container);
  return bytes / 4;
}

// Of the memory that gRPC may have: in places to read a request in, and in what waits for them, which is a stream's
// window each. What is left is for requests that are read and not yet parsed, for answers, and for connections.
constexpr double kReadingShare = 0.5, kWaitingShare = 0.125;
// The same for what anyone may send, health's requests and those for load reports.
constexpr double kOpenReadingShare = 0.125, kOpenWaitingShare = 0.03;
// For a request of 4 KB at the most: who probes health is not to wait behind those that never come.
constexpr absl::Duration kOpenPatience = absl::Seconds(2);
// Of what connections bring beyond what their messages may have.
constexpr double kExcessShare = 0.125;
// Of a stream whose message nobody has asked for, and of a connection beside what is asked for: a prompt of 60,000
// tokens comes without a wait for more, and a connection that carries many small ones over a long way is not held up.
constexpr int kStreamWindowBytes = 256 << 10;

RequestReads::RoomBounds RoomBounds(double memory_bytes, double reading_share, double waiting_share, size_t message) {
  RequestReads::RoomBounds bounds;
  bounds.num_reading = std::max<int64_t>(4, static_cast<int64_t>(reading_share * memory_bytes / kMaxRequestBytes));
  bounds.num_waiting = std::max<int64_t>(64, static_cast<int64_t>(waiting_share * memory_bytes / kStreamWindowBytes));
  bounds.max_message_bytes = static_cast<int64_t>(message);
  return bounds;
}

// `port` is known before the first request.
RequestReads::Bounds ReadBounds(const ServerOptions& options, const int* port) {
  const auto memory = static_cast<double>(GrpcMemoryBytes(options));
  RequestReads::Bounds bounds;
  bounds.callers = RoomBounds(memory, kReadingShare, kWaitingShare, kMaxRequestBytes);
  bounds.anyone = RoomBounds(memory, kOpenReadingShare, kOpenWaitingShare, kMaxSmallMessageBytes);
  bounds.callers.patience = options.request_patience;
  bounds.anyone.patience = kOpenPatience;
  bounds.max_excess_bytes = static_cast<int64_t>(kExcessShare * memory);
  bounds.received_bytes = [port] { return ReceivedBytes(*port); };
  return bounds;
}

// gRPC turns reflection and channelz on for every server of the process; this makes them one server's choice.
class IntrospectionOption final : public grpc::ServerBuilderOption {
 public:
  IntrospectionOption(bool reflection, bool channelz) : reflection_(reflection), channelz_(channelz) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    const auto unwanted = [this](const auto& plugin) {
      const std::string name = plugin->name();
      return (!reflection_ && name == "proto_server_reflection") || (!channelz_ && name == "channelz_service");
    };
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(), unwanted), plugins->end());
  }

 private:
  const bool reflection_;
  const bool channelz_;
};

int ToMilliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

}  // namespace

Server::Server(const ServerOptions& options, CallObserver on_call_end)
    : on_call_end_(std::move(on_call_end)),
      model_name_(options.model_name),
      metrics_(options.model_name, options.histogram_buckets),
      dropped_log_lines_(options.dropped_log_lines),
      listen_host_(options.listen.host),
      profile_port_(CheckProfilePort(options.security, options.http.is_loopback())),
      request_reads_(ReadBounds(options, &grpc_port_)),
      open_streams_(options.max_open_streams),
      health_(&open_streams_, &request_reads_),
      orca_([this] { return load_reporter_.Report(engine_.load()); }, &open_streams_, &request_reads_),
      generation_(
          &authorizer_, [this](const CallRecord& record) { OnCallEnd(record); },
          options.load_reports
              ? [this](const CallRecord&
                           record) { return LoadReportTrailer(load_reporter_.Report(engine_.load()), record); }
              : std::function<std::string(const CallRecord&)>(),
          options.unread_patience, &request_reads_, options.tracing.enabled(), options.share_prefix_cache) {
  SetState(ServingState::kLoading);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, CallObserver on_call_end) {
  std::unique_ptr<Server> server(new Server(options, std::move(on_call_end)));
  if (absl::Status status = server->StartTracing(options.tracing); !status.ok()) return status;
  if (absl::Status status = server->Listen(options); !status.ok()) return status;
  return server;
}

absl::Status Server::ReadCredentials(const SecurityOptions& options) {
  authorizer_.SetMaxConcurrent(options.max_concurrent_per_caller);
  const auto update_expiry = [this] {
    const auto certificate = tls_.current();
    if (certificate != nullptr)
      metrics_.SetCertificateExpiry(absl::ToDoubleSeconds(certificate->not_after() - absl::UnixEpoch()));
  };
  auto watch =
      WatchCredentials(options, &tls_, &authorizer_, [this, update_expiry](const WatchedFiles& files, bool taken) {
        metrics_.OnCredentialReload(files.name, taken);
        update_expiry();
      });
  if (!watch.ok()) return watch.status();
  credentials_ = *std::move(watch);
  update_expiry();
  return absl::OkStatus();
}

absl::Status Server::StartTracing(const TracingOptions& options) {
  if (!options.enabled()) return absl::OkStatus();
  auto tracer =
      Tracer::Create(options, [this](SpanOutcome outcome, size_t num_spans) { metrics_.OnSpans(outcome, num_spans); });
  if (tracer.ok()) tracer_ = *std::move(tracer);
  return tracer.status();
}

absl::Status Server::Listen(const ServerOptions& options) {
  if (absl::Status status = ReadCredentials(options.security); !status.ok()) return status;
  if (absl::Status status = CheckBindable(options.listen); !status.ok()) return status;
  HttpPages pages;
  pages.metrics = [this] {
    return metrics_.Text(Load(), dropped_log_lines_ ? dropped_log_lines_() : DroppedLogLines());
  };
  pages.live = [this] { return Live(); };
  pages.ready = [this] { return Ready(); };
  pages.profile = [this](const ProfileCall& call) { return AnswerProfile(call); };
  auto http = HttpServer::Start(options.http, std::move(pages), options.security.http_tls ? &tls_ : nullptr);
  if (!http.ok()) return http.status();
  http_ = *std::move(http);
  http_port_ = http_->port();

  if (options.channelz) grpc::channelz::experimental::InitChannelzService();  // for the builders that follow
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen.ToString(),
                           options.security.tls.enabled() ? tls_.GrpcCredentials() : grpc::InsecureServerCredentials(),
                           &grpc_port_);
  // Without this a second server shares the port, and each gets half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping through a prefill of minutes; gRPC's default answers the third ping with GOAWAY "too_many_pings".
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, ToMilliseconds(options.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ToMilliseconds(options.keepalive_timeout));
  // By default the pings stop after two without data, and a prefill sends none for minutes.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.SetResourceQuota(
      grpc::ResourceQuota("server").Resize(GrpcMemoryBytes(options)).SetMaxThreads(kMaxIntrospectionThreads));
  // gRPC 1.51's bandwidth probing stalls messages of megabytes for 10 s, seen in 1 of 80 under load. Fixed windows do
  // not. A message that is read gets a window of its own, of a megabyte at a time.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamWindowBytes);
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  // gRPC compares the compressed size with that bound, and then inflates: 400 KB to 400 MB. So compressed calls are
  // refused, and a message that comes before the refusal takes effect stays as it is.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.SetMaxSendMessageSize(-1);
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, ToMilliseconds(options.max_connection_age));
    if (options.connection_grace > absl::ZeroDuration()) {
      builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, ToMilliseconds(options.connection_grace));
    }
  }
  builder.SetOption(std::make_unique<IntrospectionOption>(options.reflection, options.channelz));
  builder.RegisterService(&generation_);
  builder.RegisterService(&health_);
  if (options.load_reports) builder.RegisterService(&orca_);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || grpc_port_ == 0) {
    return absl::UnavailableError(absl::StrCat(options.listen.ToString(), ": cannot be listened on"));
  }
  return absl::OkStatus();
}

Server::~Server() {
  Shutdown();
}

void Server::Serve(engine::Engine* engine, const std::string& libtorch_version, absl::Duration load_time,
                   engine::StepProfiler* profiler) {
  metrics_.OnLoaded(engine->model(), engine->options(), libtorch_version, absl::ToDoubleSeconds(load_time));
  generation_.Serve(engine, libtorch_version);
  engine_.store(engine);
  profiler_.store(profiler);
  SetState(ServingState::kServing);
  engine_watch_ = std::thread([this] { WatchEngine(); });
}

void Server::Drain(absl::Duration grace) {
  SetState(ServingState::kDraining);
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(grace, absl::Hours(24)));
  generation_.Drain();
  engine::Engine* engine = engine_.load();
  if (engine != nullptr) engine->Drain(grace);
  if (engine::StepProfiler* profiler = profiler_.load(); profiler != nullptr) profiler->Close();
  generation_.WaitForCalls(deadline);  // readers may be slower than the engine
}

void Server::Shutdown() {
  if (grpc_ == nullptr) return;
  SetState(ServingState::kDraining);
  // Watches of health never end by themselves; a stream's last message is on its way already.
  grpc_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  grpc_->Wait();
  request_reads_.Stop();
  if (tracer_ != nullptr) tracer_->Shutdown(kTraceFlushTime);
  credentials_ = nullptr;
  grpc_ = nullptr;
  http_ = nullptr;  // it asks the engine for its load
  {
    MutexLock lock(&watch_mutex_);
    watch_stopping_ = true;
  }
  watch_ends_.NotifyAll();
  if (engine_watch_.joinable()) engine_watch_.join();
}

bool Server::SetState(ServingState state) {
  MutexLock lock(&state_mutex_);
  if (state_.load() == ServingState::kFailed) return false;
  state_.store(state);
  const bool ready = state == ServingState::kServing;
  health_.Set(state != ServingState::kFailed, ready);
  metrics_.SetServing(ready);
  return true;
}

void Server::OnCallEnd(const CallRecord& record) {
  if (!record.status.ok()) PollEngine();
  load_reporter_.OnCallEnd(record);
  metrics_.OnCallEnd(record, state() == ServingState::kDraining);
  if (tracer_ == nullptr) {
    if (on_call_end_) on_call_end_(record);
    return;
  }
  CallRecord traced = record;
  traced.trace_id = tracer_->Record(CallSpan(record, absl::Now(), model_name_, {listen_host_, grpc_port_}));
  if (on_call_end_) on_call_end_(traced);
}

void Server::PollEngine() {
  const auto load = Load();
  if (!load.has_value() || load->healthy || !SetState(ServingState::kFailed)) return;
  spdlog::critical("the engine serves no more: {}", load->fault);
}

void Server::LogCaptureFailure() {
  const absl::Status failure = metrics_.TakeCaptureFailure();
  if (failure.ok()) return;
  spdlog::warn("a CUDA graph could not be captured, so steps of its kind are enqueued kernel by kernel: {}",
               std::string(failure.message()));
}

void Server::WatchEngine() {
  MutexLock lock(&watch_mutex_);
  while (!watch_stopping_) {
    PollEngine();
    LogCaptureFailure();
    watch_ends_.WaitFor(&watch_mutex_, kEnginePollInterval);
  }
  LogCaptureFailure();  // of the last second
}

absl::optional<engine::EngineLoad> Server::Load() const {
  const engine::Engine* engine = engine_.load();
  if (engine == nullptr) return absl::nullopt;
  return engine->Load();
}

absl::StatusOr<std::string> Server::AnswerProfile(const ProfileCall& call) {
  const auto start = std::chrono::steady_clock::now();
  CallRecord record;
  record.method = "/debug/profile";
  record.caller = call.peer;
  absl::StatusOr<std::string> trace = profile_port_.ok() ? Profile(call, authorizer_, profiler_.load(), &record.caller)
                                                         : absl::StatusOr<std::string>(profile_port_);
  record.status = trace.status();
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  metrics_.OnCallEnd(record, state() == ServingState::kDraining);
  if (on_call_end_) on_call_end_(record);
  return trace;
}

absl::Status Server::Live() {
  PollEngine();
  if (state() == ServingState::kFailed) {
    return absl::InternalError("the engine has stopped after a device fault, or hung in a step");
  }
  return absl::OkStatus();
}

absl::Status Server::Ready() {
  PollEngine();
  switch (state()) {
    case ServingState::kServing:
      return absl::OkStatus();
    case ServingState::kLoading: {
      const double share = loaded_share_.load();
      if (share >= 1) return absl::UnavailableError("the weights are loaded: preparing hash, cache and graphs");
      return absl::UnavailableError(absl::StrFormat("loading the model's weights, %.0f%%", 100 * share));
    }
    case ServingState::kDraining:
      return absl::UnavailableError("draining");
    case ServingState::kFailed:
      break;
  }
  return Live();
}

}  // namespace spotlight::server
