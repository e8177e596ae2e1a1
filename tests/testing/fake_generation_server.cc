#include "tests/testing/fake_generation_server.h"

#include <chrono>
#include <utility>

#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace spotlight::testing {

// Deletes itself when gRPC is done with it.
class FakeGenerationServer::Stream : public grpc::ServerWriteReactor<v1::GenerateStreamResponse> {
 public:
  Stream(FakeGenerationServer* server, StreamScript script) : server_(server), script_(std::move(script)) { Advance(); }

  void OnWriteDone(bool ok) override {
    if (ok) {
      ++next_;
      Advance();
    } else {
      FinishOnce(grpc::Status::CANCELLED);
    }
  }

  void OnCancel() override {
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      if (script_.hold_open) ++server_->cancelled_streams_;
      server_->changed_.notify_all();
    }
    if (script_.hold_open) FinishOnce(grpc::Status::CANCELLED);
  }

  void OnDone() override { delete this; }

 private:
  void Advance() {
    if (next_ < script_.messages.size()) {
      StartWrite(&script_.messages[next_]);
    } else if (!script_.hold_open) {
      FinishOnce(script_.status);
    }
  }

  // A failed write and a cancellation may come together.
  void FinishOnce(const grpc::Status& status) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (finished_) return;
      finished_ = true;
    }
    Finish(status);
  }

  FakeGenerationServer* server_;
  StreamScript script_;
  size_t next_ = 0;
  std::mutex mutex_;
  bool finished_ = false;
};

class FakeGenerationServer::GenerationService
    : public v1::Generation::WithCallbackMethod_GenerateStream<v1::Generation::Service> {
 public:
  explicit GenerationService(FakeGenerationServer* server) : server_(server) {}

  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(grpc::CallbackServerContext*,
                                                                       const v1::GenerateRequest* request) override {
    StreamScript script;
    script.status = grpc::Status(grpc::StatusCode::INTERNAL, "no script for this call");
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->generate_requests_.push_back(*request);
      if (!server_->scripts_.empty()) {
        script = std::move(server_->scripts_.front());
        server_->scripts_.pop_front();
      }
    }
    return new Stream(server_, std::move(script));
  }

  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->generate_requests_.push_back(*request);
    response->set_text(server_->text_.text());
    return server_->unary_status_;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->tokenize_requests_.push_back(*request);
    *response = server_->tokens_;
    return server_->unary_status_;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->detokenize_requests_.push_back(*request);
    *response = server_->text_;
    return server_->unary_status_;
  }

  grpc::Status Abort(grpc::ServerContext*, const v1::AbortRequest* request, v1::AbortResponse*) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->aborted_.push_back(request->request_id());
    return server_->unary_status_;
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    *response = server_->model_info_;
    return server_->unary_status_;
  }

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    *response = server_->server_info_;
    return server_->unary_status_;
  }

  grpc::Status GetLoads(grpc::ServerContext*, const v1::GetLoadsRequest*, v1::GetLoadsResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    *response = server_->loads_;
    return server_->unary_status_;
  }

 private:
  FakeGenerationServer* server_;
};

class FakeGenerationServer::HealthService : public grpc::health::v1::Health::Service {
 public:
  explicit HealthService(FakeGenerationServer* server) : server_(server) {}

  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->health_services_.push_back(request->service());
    *response = server_->health_;
    return server_->unary_status_;
  }

  grpc::Status Watch(grpc::ServerContext* context, const grpc::health::v1::HealthCheckRequest*,
                     grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>* writer) override {
    std::unique_lock<std::mutex> lock(server_->mutex_);
    grpc::health::v1::HealthCheckResponse sent;
    while (!context->IsCancelled()) {
      if (server_->health_.status() != sent.status()) {
        sent = server_->health_;
        lock.unlock();
        writer->Write(sent);
        lock.lock();
      }
      server_->changed_.wait_for(lock, std::chrono::milliseconds(5));  // nothing tells of a cancel
    }
    return grpc::Status::CANCELLED;
  }

 private:
  FakeGenerationServer* server_;
};

FakeGenerationServer::FakeGenerationServer()
    : generation_(std::make_unique<GenerationService>(this)), health_service_(std::make_unique<HealthService>(this)) {
  health_.set_status(grpc::health::v1::HealthCheckResponse::SERVING);
  model_info_.set_name("fake");
  model_info_.set_has_chat_template(true);
  model_info_.set_max_context_tokens(64);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(generation_.get());
  builder.RegisterService(health_service_.get());
  builder.SetMaxReceiveMessageSize(-1);
  // gRPC's bandwidth estimate now and then stalls a message of megabytes for 10 s; a fixed window does not.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  server_ = builder.BuildAndStart();
  address_ = "127.0.0.1:" + std::to_string(port);
}

FakeGenerationServer::~FakeGenerationServer() {
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeGenerationServer::AddStream(StreamScript script) {
  std::lock_guard<std::mutex> lock(mutex_);
  scripts_.push_back(std::move(script));
}

void FakeGenerationServer::set_unary_status(grpc::Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  unary_status_ = std::move(status);
}

void FakeGenerationServer::set_model_info(const v1::GetModelInfoResponse& info) {
  std::lock_guard<std::mutex> lock(mutex_);
  model_info_ = info;
}

void FakeGenerationServer::set_server_info(const v1::GetServerInfoResponse& info) {
  std::lock_guard<std::mutex> lock(mutex_);
  server_info_ = info;
}

void FakeGenerationServer::set_loads(const v1::GetLoadsResponse& loads) {
  std::lock_guard<std::mutex> lock(mutex_);
  loads_ = loads;
}

void FakeGenerationServer::set_health(grpc::health::v1::HealthCheckResponse::ServingStatus health) {
  std::lock_guard<std::mutex> lock(mutex_);
  health_.set_status(health);
}

void FakeGenerationServer::set_tokens(const v1::TokenizeResponse& tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  tokens_ = tokens;
}

void FakeGenerationServer::set_text(const std::string& text) {
  std::lock_guard<std::mutex> lock(mutex_);
  text_.set_text(text);
}

std::vector<v1::GenerateRequest> FakeGenerationServer::generate_requests() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return generate_requests_;
}

std::vector<v1::TokenizeRequest> FakeGenerationServer::tokenize_requests() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return tokenize_requests_;
}

std::vector<v1::DetokenizeRequest> FakeGenerationServer::detokenize_requests() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return detokenize_requests_;
}

std::vector<std::string> FakeGenerationServer::aborted() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return aborted_;
}

std::vector<std::string> FakeGenerationServer::health_services() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return health_services_;
}

bool FakeGenerationServer::WaitForCancelledStreams(int count) const {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return cancelled_streams_ >= count; });
}

v1::GenerateStreamResponse TextMessage(const std::string& text, int token_id) {
  v1::GenerateStreamResponse message;
  message.set_text(text);
  message.add_token_ids(token_id);
  return message;
}

v1::GenerateStreamResponse LastMessage(v1::FinishReason reason) {
  v1::GenerateStreamResponse message;
  message.set_finish_reason(reason);
  message.set_seed(18446744073709551615u);
  message.mutable_usage()->set_prompt_tokens(5);
  message.mutable_usage()->set_completion_tokens(3);
  message.mutable_usage()->set_total_tokens(8);
  message.mutable_timings()->set_queue_seconds(0.001);
  message.mutable_timings()->set_time_to_first_token_seconds(0.1);
  message.mutable_timings()->set_decode_seconds(0.05);
  message.mutable_timings()->set_mean_inter_token_seconds(0.025);
  message.mutable_retrieval()->set_dense_steps(2);
  message.mutable_retrieval()->set_dense_reason(v1::DENSE_REASON_NO_HASH);
  return message;
}

}  // namespace spotlight::testing
