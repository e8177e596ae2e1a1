// What callers have been answered and have not taken yet.
//
// A small answer gives its caller's place back before the client has it, so that its next call finds the place free. A
// client that never reads would so hold any number of answers with one place, but for the bound here.
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>

#include "engine/mutex.h"

namespace spotlight::server {

// Thread-safe.
class UntakenAnswers {
 public:
  // What an answer may have, gRPC's default window: a client that reads has it at once. And all of a caller's together,
  // each with what the open call itself costs.
  static constexpr size_t kMaxAnswerBytes = 64 << 10;
  static constexpr size_t kMaxCallerBytes = 256 << 10;
  static constexpr size_t kCallBytes = 4 << 10;

  // What to give to Remove when the client has taken the answer, or is gone; 0: not counted, there is no room for it.
  size_t Add(const std::string& caller, size_t num_bytes) {
    if (num_bytes > kMaxAnswerBytes) return 0;
    num_bytes += kCallBytes;
    MutexLock lock(&mutex_);
    const auto found = bytes_.try_emplace(caller, 0).first;
    if (found->second + num_bytes > kMaxCallerBytes) return 0;
    found->second += num_bytes;
    return num_bytes;
  }
  void Remove(const std::string& caller, size_t counted) {
    if (counted == 0) return;
    MutexLock lock(&mutex_);
    const auto found = bytes_.find(caller);
    found->second -= counted;
    if (found->second == 0) bytes_.erase(found);
  }

 private:
  Mutex mutex_;
  std::unordered_map<std::string, size_t> bytes_ ABSL_GUARDED_BY(mutex_);  // by caller
};

}  // namespace spotlight::server
