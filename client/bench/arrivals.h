// When requests are to be sent.
#pragma once

#include <cstdint>
#include <random>

namespace spotlight::client::bench {

// An open loop's clock: intervals from a gamma distribution with the mean 1 / rate. A burstiness of 1 makes it a
// Poisson process, less is burstier, more is more regular (shape = burstiness, as vllm bench serve has it). The same
// seed gives the same times. Thread-compatible.
class Arrivals {
 public:
  // `rate` in requests a second; infinity sends everything at 0.
  Arrivals(double rate, double burstiness, uint64_t seed);

  // Seconds since the start, never less than before. The first request comes after an interval, too.
  double Next();

 private:
  const bool at_once_;
  std::mt19937_64 random_;
  std::gamma_distribution<double> interval_;
  double now_ = 0;
};

}  // namespace spotlight::client::bench
