// What waits, by caller and priority: how much of the queue a caller may fill, and what is ahead of a request.
//
// A queue that a single caller could fill would be shut to all others however fairly it is served. So each caller may
// fill at most 8 times what is still free (the dynamic threshold of Choudhury and Hahne, 1998): alone 8/9 of the queue,
// two callers 8/17 each, n callers 8 / (1 + 8 n), and a caller with nothing waiting is refused only when the queue is
// full. Nothing is taken back from those that wait; a caller above a share that has shrunk is refused until it is
// below.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

#include "engine/admission/deadline.h"

namespace spotlight::engine {

// Thread-compatible.
class WaitingShares {
 public:
  struct Share {
    int32_t num_requests = 0;
    int32_t num_samples = 0;  // of all these requests
    int64_t num_tokens = 0;
  };

  void AddRequest(const std::string& caller, int32_t priority, int32_t num_samples = 1);
  void AddTokens(const std::string& caller, int32_t priority, int64_t num_tokens);
  void Remove(const std::string& caller, int32_t priority, int64_t num_tokens, int32_t num_samples = 1);

  const Share& total() const { return total_; }
  Share Of(const std::string& caller) const;
  // Whether the caller has as much as it may of a bound of which `free` is left.
  static bool IsFull(int64_t callers, int64_t free) { return callers >= kFreeShares * free; }

  // Ahead of a request of `num_tokens` and `num_samples` that has its place already: every higher priority; of its own
  // one the caller's other requests, and of each other caller as much as of this one (waiting_line.h shares evenly).
  WaitingAhead Ahead(const std::string& caller, int32_t priority, int64_t num_tokens, int32_t num_samples = 1) const;

 private:
  static constexpr int64_t kFreeShares = 8;
  Share total_;
  std::map<int32_t, std::unordered_map<std::string, Share>> by_priority_;
};

}  // namespace spotlight::engine
