// Keeps a number of streams of all behaviours running, and remembers how each ended.
#pragma once

#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/soak/client_stream.h"
#include "tests/soak/severing_proxy.h"
#include "tests/soak/timer.h"

namespace spotlight::soak {

// Requests are drawn from `seed`; how they interleave is not. Thread-compatible, but for the streams' own threads.
class Population {
 public:
  Population(const std::string& server_address, int server_port, int num_streams, uint64_t seed);

  // Starts a stream for every one that ends, until `duration` is over; then waits for all to end. False: some did not
  // end within `patience`.
  bool Run(absl::Duration duration, absl::Duration patience);

  const std::vector<StreamEnd>& ends() const { return ends_; }  // not while running
  int num_running() const;
  int64_t num_severed() const { return proxy_.num_severed(); }

 private:
  StreamPlan NextPlan();
  // In a plan that has its max_tokens: where it may stop, of at least one kind.
  void DrawStops(v1::GenerateRequest* request);
  void DrawSampling(v1::GenerateRequest* request);
  void StartOne();
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool OneIn(int number) { return Uniform(1, number) == 1; }
  // In steps of a hundredth.
  float Real(float low, float high) {
    return static_cast<float>(Uniform(std::lround(100 * low), std::lround(100 * high))) / 100;
  }

  const int num_streams_;
  std::mt19937_64 random_;
  SeveringProxy proxy_;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;
  std::unique_ptr<v1::Generation::Stub> narrow_stub_;  // a small window, for those who read slowly
  std::vector<std::unique_ptr<v1::Generation::Stub>> severed_stubs_;
  uint64_t num_started_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int num_running_ = 0;
  std::vector<StreamEnd> ends_;
  Timer timer_;  // last: what it runs uses the rest
};

}  // namespace spotlight::soak
