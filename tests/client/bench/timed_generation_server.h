// A Generation server whose tokens come at known times: what a load client reports can be held against them. It spends
// as little as it can: one timer thread for all streams, messages serialized once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/server.h"
#include "grpcpp/support/byte_buffer.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"

namespace spotlight::testing {

// Token k (from 0) of a call that arrived at time t is written at t + ttft + k * interval; there are max_tokens of
// them. With both at 0 every token is written as soon as the one before it is through.
struct TokenSchedule {
  std::chrono::microseconds ttft{0};
  std::chrono::microseconds interval{0};
  // Every refuse_every-th call ends with RESOURCE_EXHAUSTED at once; 0: none.
  int refuse_every = 0;
};

// Listens on a free port of 127.0.0.1 until destroyed. Thread-safe.
class TimedGenerationServer {
 public:
  explicit TimedGenerationServer(TokenSchedule schedule);
  ~TimedGenerationServer();
  TimedGenerationServer(const TimedGenerationServer&) = delete;
  TimedGenerationServer& operator=(const TimedGenerationServer&) = delete;

  const std::string& address() const { return address_; }
  // In the order of arrival; the prompts of a load's benchmark are large, so only when asked for.
  void RememberRequests() { remember_requests_ = true; }
  std::vector<v1::GenerateRequest> requests() const;
  int num_cancelled() const;

 private:
  using Time = std::chrono::steady_clock::time_point;
  class Service;
  class Stream;

  void RunTimer();
  void At(Time time, std::function<void()> run);

  const TokenSchedule schedule_;
  grpc::ByteBuffer token_message_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  bool remember_requests_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  struct Event {
    Time time;
    uint64_t number;  // events of one time keep their order
    std::function<void()> run;
    bool operator<(const Event& other) const { return time != other.time ? time > other.time : number > other.number; }
  };
  std::priority_queue<Event> events_;
  uint64_t num_events_ = 0;
  uint64_t num_calls_ = 0;
  int num_cancelled_ = 0;
  std::vector<v1::GenerateRequest> requests_;
  bool stopping_ = false;
  std::thread timer_;
};

}  // namespace spotlight::testing
