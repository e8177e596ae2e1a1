#include "client/bench/arrivals.h"

#include <cmath>

namespace spotlight::client::bench {

Arrivals::Arrivals(double rate, double burstiness, uint64_t seed)
    : at_once_(std::isinf(rate)), random_(seed), interval_(burstiness, at_once_ ? 1 : 1 / (rate * burstiness)) {}

double Arrivals::Next() {
  if (!at_once_) now_ += interval_(random_);
  return now_;
}

}  // namespace spotlight::client::bench
