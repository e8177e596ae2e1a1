#include "server/stream_places.h"

#include "absl/strings/str_cat.h"

namespace spotlight::server {
namespace {

constexpr int64_t kFreeShares = 8;

}  // namespace

StreamPlaces::StreamPlaces(int64_t num_places) : num_places_(num_places), taken_(std::make_shared<Taken>()) {}

absl::StatusOr<StreamPlaces::Place> StreamPlaces::Take(const std::string& caller) {
  MutexLock lock(&taken_->mutex);
  const auto found = taken_->by_caller.find(caller);
  const int64_t callers = found == taken_->by_caller.end() ? 0 : found->second;
  if (callers >= kFreeShares * (num_places_ - taken_->total)) {
    return absl::ResourceExhaustedError(absl::StrCat("open_streams: ", taken_->total, " of ", num_places_,
                                                     " watches and load reports are open, ", callers,
                                                     " of them this caller's"));
  }
  ++taken_->total;
  ++taken_->by_caller[caller];
  // The deleter runs without an object: only its going is of interest.
  return Place(static_cast<const void*>(this), [taken = taken_, caller](const void*) {
    MutexLock lock(&taken->mutex);
    --taken->total;
    const auto own = taken->by_caller.find(caller);
    if (--own->second == 0) taken->by_caller.erase(own);
  });
}

}  // namespace spotlight::server
