#include "tests/client/bench/timed_generation_server.h"

#include <sys/prctl.h>

#include <utility>

#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/slice.h"

namespace spotlight::testing {
namespace {

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer TokenMessage() {
  v1::GenerateStreamResponse message;
  message.set_text(" token");
  message.add_token_ids(42);
  return Serialize(message);
}

}  // namespace

// Written by one thread at a time: the timer's for the first token, then whoever comes last of the timer and gRPC.
// Deleted once gRPC is done with it and no event of the timer knows it.
class TimedGenerationServer::Stream : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                                      public std::enable_shared_from_this<Stream> {
 public:
  Stream(TimedGenerationServer* server, int num_tokens, int prompt_tokens)
      : server_(server), num_tokens_(num_tokens), prompt_tokens_(prompt_tokens) {}

  void Begin(Time arrival) {
    self_ = shared_from_this();
    arrival_ = arrival;
    if (server_->schedule_.ttft.count() == 0 && server_->schedule_.interval.count() == 0) {
      due_ = num_tokens_;
      Write();
      return;
    }
    Schedule(0);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      in_flight_ = false;
      gone_ = gone_ || !ok;
    }
    Write();
  }

  void OnCancel() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      gone_ = true;
    }
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      ++server_->num_cancelled_;
    }
    Write();
  }

  void OnDone() override { self_ = nullptr; }

 private:
  void Schedule(int token) {
    const auto time = arrival_ + server_->schedule_.ttft + token * server_->schedule_.interval;
    server_->At(time, [stream = shared_from_this(), token] {
      {
        std::lock_guard<std::mutex> lock(stream->mutex_);
        if (stream->gone_) return;
        stream->due_ = token + 1;
      }
      if (token + 1 < stream->num_tokens_) stream->Schedule(token + 1);
      stream->Write();
    });
  }

  void Write() {
    bool is_end = false;
    grpc::Status status;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (in_flight_ || finished_) return;
      is_end = gone_ || written_ == num_tokens_;
      if (gone_) status = grpc::Status::CANCELLED;
      if (!is_end && written_ == due_) return;
      finished_ = is_end;
      in_flight_ = !is_end;
      if (!is_end) ++written_;
    }
    if (!is_end) {
      StartWrite(&server_->token_message_);
    } else if (!status.ok()) {
      Finish(status);
    } else {
      v1::GenerateStreamResponse last;
      last.set_finish_reason(v1::FINISH_REASON_LENGTH);
      last.mutable_usage()->set_prompt_tokens(prompt_tokens_);
      last.mutable_usage()->set_completion_tokens(num_tokens_);
      last_message_ = Serialize(last);
      StartWriteAndFinish(&last_message_, grpc::WriteOptions(), status);
    }
  }

  TimedGenerationServer* const server_;
  const int num_tokens_;
  const int prompt_tokens_;
  std::shared_ptr<Stream> self_;  // gRPC's reference
  Time arrival_;
  grpc::ByteBuffer last_message_;
  std::mutex mutex_;
  int due_ = 0;
  int written_ = 0;
  bool in_flight_ = false;
  bool gone_ = false;
  bool finished_ = false;
};

class TimedGenerationServer::Service final
    : public v1::Generation::WithRawCallbackMethod_GenerateStream<v1::Generation::Service> {
 public:
  explicit Service(TimedGenerationServer* server) : server_(server) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(grpc::CallbackServerContext*,
                                                             const grpc::ByteBuffer* bytes) override {
    const Time arrival = std::chrono::steady_clock::now();
    grpc::Slice slice;
    v1::GenerateRequest request;
    const bool parsed =
        bytes->DumpToSingleSlice(&slice).ok() && request.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
    auto stream = std::make_shared<Stream>(server_, request.stopping().max_tokens(), request.token_ids().ids_size());
    bool refused = !parsed;
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      const int every = server_->schedule_.refuse_every;
      refused = refused || (every > 0 && ++server_->num_calls_ % every == 0);
      if (server_->remember_requests_) server_->requests_.push_back(std::move(request));
    }
    if (refused) return new Refusal;
    stream->Begin(arrival);
    return stream.get();  // kept by itself until OnDone
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse* response) override {
    response->set_name("timed");
    response->set_vocab_size(1000);
    response->add_eos_token_ids(2);
    return grpc::Status::OK;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    // A token a byte.
    for (size_t i = 0; i < request->text().size(); ++i) response->add_token_ids(request->text()[i]);
    return grpc::Status::OK;
  }

  grpc::Status GetLoads(grpc::ServerContext*, const v1::GetLoadsRequest*, v1::GetLoadsResponse*) override {
    return grpc::Status::OK;
  }

 private:
  struct Refusal : grpc::ServerWriteReactor<grpc::ByteBuffer> {
    Refusal() { Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue_requests: full")); }
    void OnDone() override { delete this; }
  };

  TimedGenerationServer* const server_;
};

TimedGenerationServer::TimedGenerationServer(TokenSchedule schedule)
    : schedule_(schedule), token_message_(TokenMessage()), service_(std::make_unique<Service>(this)) {
  timer_ = std::thread([this] { RunTimer(); });
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  builder.SetMaxReceiveMessageSize(-1);
  server_ = builder.BuildAndStart();
  address_ = "127.0.0.1:" + std::to_string(port);
}

TimedGenerationServer::~TimedGenerationServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  timer_.join();
}

std::vector<v1::GenerateRequest> TimedGenerationServer::requests() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

int TimedGenerationServer::num_cancelled() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_cancelled_;
}

void TimedGenerationServer::At(Time time, std::function<void()> run) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.push({time, num_events_++, std::move(run)});
  }
  changed_.notify_one();
}

void TimedGenerationServer::RunTimer() {
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (events_.empty()) {
      changed_.wait(lock);
    } else if (const Time time = events_.top().time; time > std::chrono::steady_clock::now()) {
      changed_.wait_until(lock, time);
    } else {
      const std::function<void()> run = events_.top().run;
      events_.pop();
      lock.unlock();
      run();
      lock.lock();
    }
  }
}

}  // namespace spotlight::testing
