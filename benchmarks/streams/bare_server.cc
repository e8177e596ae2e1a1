#include "benchmarks/streams/bare_server.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "grpcpp/alarm.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/grpcpp.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::benchmarks {
namespace {

grpc::ByteBuffer Serialize(const v1::GenerateStreamResponse& message) {
  grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

class BareServer::State {
 public:
  State() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterAsyncGenericService(&service_);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    Accept();
    thread_ = std::thread([this] { Run(); });
  }

  ~State() {
    server_->Shutdown(std::chrono::system_clock::now());
    queue_->Shutdown();
    thread_.join();
  }

  int port() const { return port_; }

  void Serve(int32_t num_streams, int32_t num_tokens, double step_seconds) {
    using Clock = std::chrono::steady_clock;
    std::unique_lock<std::mutex> lock(mutex_);
    num_tokens_ = num_tokens;
    changed_.wait(lock, [&] { return num_open_ == num_streams; });
    lock.unlock();
    const auto step = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(step_seconds));
    for (int32_t i = 0; i < num_tokens; ++i) {
      for (const auto end = Clock::now() + step; Clock::now() < end;) {
      }
      ++num_steps_;
      if (!alarm_set_.exchange(true)) alarm_.Set(queue_.get(), std::chrono::system_clock::now(), &alarm_);
    }
    lock.lock();
    changed_.wait(lock, [&] { return num_open_ == 0; });
  }

 private:
  enum class Phase { kWaits, kReads, kWrites, kEnds };
  struct Call {
    grpc::GenericServerContext context;
    grpc::GenericServerAsyncReaderWriter stream{&context};
    grpc::ByteBuffer request;
    Phase phase = Phase::kWaits;
    bool writing = false;
    int32_t num_due = 0, num_sent = 0;
  };

  void Accept() {
    auto* const call = new Call;
    service_.RequestCall(&call->context, &call->stream, queue_.get(), queue_.get(), call);
  }

  void Run() {
    void* tag = nullptr;
    for (bool ok = false; queue_->Next(&tag, &ok);) {
      if (tag == &alarm_) {
        Step();
      } else {
        Continue(static_cast<Call*>(tag), ok);
      }
    }
  }

  void Step() {
    alarm_set_ = false;
    const int32_t due = num_steps_ - num_steps_seen_;
    num_steps_seen_ += due;
    for (Call* const call : calls_) {
      call->num_due += due;
      Write(call);
    }
  }

  void Continue(Call* call, bool ok) {
    switch (call->phase) {
      case Phase::kWaits:
        if (!ok) {  // the server shuts down
          delete call;
          return;
        }
        Accept();
        call->phase = Phase::kReads;
        call->stream.Read(&call->request, call);
        return;
      case Phase::kReads: {
        call->phase = Phase::kWrites;
        calls_.insert(call);
        CountOpen(1);
        return;
      }
      case Phase::kWrites:
        call->writing = false;
        Write(call);
        return;
      case Phase::kEnds:
        calls_.erase(call);
        delete call;
        CountOpen(-1);
    }
  }

  void Write(Call* call) {
    if (call->writing || call->num_due == 0 || call->phase != Phase::kWrites) return;
    call->writing = true;
    --call->num_due;
    v1::GenerateStreamResponse message;
    message.set_text(" token");
    message.add_token_ids(1000);
    if (++call->num_sent < num_tokens_) return call->stream.Write(Serialize(message), call);
    message.set_finish_reason(v1::FINISH_REASON_LENGTH);
    message.mutable_usage()->set_completion_tokens(num_tokens_);
    call->phase = Phase::kEnds;
    call->stream.WriteAndFinish(Serialize(message), grpc::WriteOptions(), grpc::Status::OK, call);
  }

  void CountOpen(int32_t change) {
    std::lock_guard<std::mutex> lock(mutex_);
    num_open_ += change;
    changed_.notify_one();
  }

  int port_ = 0;
  grpc::AsyncGenericService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  grpc::Alarm alarm_;
  std::atomic<bool> alarm_set_{false};
  std::atomic<int32_t> num_steps_{0};
  int32_t num_steps_seen_ = 0;  // the thread's
  std::set<Call*> calls_;       // the thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int32_t> num_tokens_{0};
  int32_t num_open_ = 0;
  std::thread thread_;
};

BareServer::BareServer() : state_(std::make_unique<State>()) {}
BareServer::~BareServer() = default;
int BareServer::port() const {
  return state_->port();
}
void BareServer::Serve(int32_t num_streams, int32_t num_tokens, double step_seconds) {
  state_->Serve(num_streams, num_tokens, step_seconds);
}

}  // namespace spotlight::benchmarks
