#include "engine/admission/waiting_shares.h"

#include <algorithm>
#include <cassert>

namespace spotlight::engine {

void WaitingShares::AddRequest(const std::string& caller, int32_t priority, int32_t num_samples) {
  for (Share* const share : {&by_priority_[priority][caller], &total_}) {
    ++share->num_requests;
    share->num_samples += num_samples;
  }
}

void WaitingShares::AddTokens(const std::string& caller, int32_t priority, int64_t num_tokens) {
  by_priority_.at(priority).at(caller).num_tokens += num_tokens;
  total_.num_tokens += num_tokens;
}

void WaitingShares::Remove(const std::string& caller, int32_t priority, int64_t num_tokens, int32_t num_samples) {
  const auto shares = by_priority_.find(priority);
  assert(shares != by_priority_.end());
  const auto share = shares->second.find(caller);
  assert(share != shares->second.end());
  for (Share* const from : {&share->second, &total_}) {
    --from->num_requests;
    from->num_samples -= num_samples;
    from->num_tokens -= num_tokens;
  }
  if (share->second.num_requests > 0) return;
  shares->second.erase(share);
  if (shares->second.empty()) by_priority_.erase(shares);
}

WaitingShares::Share WaitingShares::Of(const std::string& caller) const {
  Share sum;
  for (const auto& [priority, shares] : by_priority_) {
    const auto found = shares.find(caller);
    if (found == shares.end()) continue;
    sum.num_requests += found->second.num_requests;
    sum.num_samples += found->second.num_samples;
    sum.num_tokens += found->second.num_tokens;
  }
  return sum;
}

WaitingAhead WaitingShares::Ahead(const std::string& caller, int32_t priority, int64_t num_tokens,
                                  int32_t num_samples) const {
  WaitingAhead ahead;
  Share own;
  const auto mine = by_priority_.find(priority);
  if (mine != by_priority_.end()) {
    const auto found = mine->second.find(caller);
    if (found != mine->second.end()) own = found->second;
  }
  const int32_t own_samples = std::max(num_samples, own.num_samples);
  const int64_t own_tokens = own.num_tokens + num_tokens;
  for (auto shares = by_priority_.lower_bound(priority); shares != by_priority_.end(); ++shares) {
    const bool higher = shares->first > priority;
    for (const auto& [name, share] : shares->second) {
      if (!higher && name == caller) continue;
      ahead.num_samples += higher ? share.num_samples : std::min(share.num_samples, own_samples);
      ahead.num_tokens += higher ? share.num_tokens : std::min(share.num_tokens, own_tokens);
    }
  }
  ahead.num_samples += own_samples - num_samples;
  ahead.num_tokens += own.num_tokens;
  return ahead;
}

}  // namespace spotlight::engine
