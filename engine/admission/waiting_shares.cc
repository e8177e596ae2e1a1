#include "engine/admission/waiting_shares.h"

#include <algorithm>
#include <cassert>

namespace spotlight::engine {

void WaitingShares::AddRequest(const std::string& caller, int32_t priority) {
  ++by_priority_[priority][caller].num_requests;
  ++total_.num_requests;
}

void WaitingShares::AddTokens(const std::string& caller, int32_t priority, int64_t num_tokens) {
  by_priority_.at(priority).at(caller).num_tokens += num_tokens;
  total_.num_tokens += num_tokens;
}

void WaitingShares::Remove(const std::string& caller, int32_t priority, int64_t num_tokens) {
  const auto shares = by_priority_.find(priority);
  assert(shares != by_priority_.end());
  const auto share = shares->second.find(caller);
  assert(share != shares->second.end());
  share->second.num_tokens -= num_tokens;
  total_.num_tokens -= num_tokens;
  --total_.num_requests;
  if (--share->second.num_requests > 0) return;
  shares->second.erase(share);
  if (shares->second.empty()) by_priority_.erase(shares);
}

WaitingShares::Share WaitingShares::Of(const std::string& caller) const {
  Share sum;
  for (const auto& [priority, shares] : by_priority_) {
    const auto found = shares.find(caller);
    if (found == shares.end()) continue;
    sum.num_requests += found->second.num_requests;
    sum.num_tokens += found->second.num_tokens;
  }
  return sum;
}

WaitingAhead WaitingShares::Ahead(const std::string& caller, int32_t priority, int64_t num_tokens) const {
  WaitingAhead ahead;
  Share own;
  const auto mine = by_priority_.find(priority);
  if (mine != by_priority_.end()) {
    const auto found = mine->second.find(caller);
    if (found != mine->second.end()) own = found->second;
  }
  const int32_t own_requests = std::max(1, own.num_requests);
  const int64_t own_tokens = own.num_tokens + num_tokens;
  for (auto shares = by_priority_.lower_bound(priority); shares != by_priority_.end(); ++shares) {
    const bool higher = shares->first > priority;
    for (const auto& [name, share] : shares->second) {
      if (!higher && name == caller) continue;
      ahead.num_requests += higher ? share.num_requests : std::min(share.num_requests, own_requests);
      ahead.num_tokens += higher ? share.num_tokens : std::min(share.num_tokens, own_tokens);
    }
  }
  ahead.num_requests += own_requests - 1;
  ahead.num_tokens += own.num_tokens;
  return ahead;
}

}  // namespace spotlight::engine
