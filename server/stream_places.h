// Places for the streams that anyone may open and keep without a token: watches of health, and load reports.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "engine/mutex.h"

namespace spotlight::server {

// Thread-safe.
class StreamPlaces {
 public:
  // Free again when the last copy is gone, which may be after the places themselves.
  using Place = std::shared_ptr<const void>;

  explicit StreamPlaces(int64_t num_places);

  // A caller may have at most 8 times what is still free (engine/admission/waiting_shares.h): whoever takes what there
  // is to be had, others find a place. RESOURCE_EXHAUSTED "open_streams: ..." otherwise.
  absl::StatusOr<Place> Take(const std::string& caller);

 private:
  struct Taken {
    Mutex mutex;
    int64_t total ABSL_GUARDED_BY(mutex) = 0;
    std::unordered_map<std::string, int64_t> by_caller ABSL_GUARDED_BY(mutex);
  };

  const int64_t num_places_;
  const std::shared_ptr<Taken> taken_;
};

}  // namespace spotlight::server
