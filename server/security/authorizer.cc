#include "server/security/authorizer.h"

#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/request.h"
#include "server/security/sha256.h"

namespace spotlight::server {
namespace {

absl::StatusOr<absl::string_view> BearerToken(const CallCredentials& credentials) {
  constexpr char kHow[] = "send it as the metadata \"authorization: Bearer TOKEN\"";
  if (credentials.authorization.empty()) {
    return absl::UnauthenticatedError(absl::StrCat("this server needs a token; ", kHow));
  }
  if (credentials.authorization.size() > 1) {
    return absl::UnauthenticatedError("the metadata authorization came more than once");
  }
  absl::string_view value = credentials.authorization[0];
  if (!absl::StartsWithIgnoreCase(value, "bearer ")) {
    return absl::UnauthenticatedError(absl::StrCat("the metadata authorization holds no bearer token; ", kHow));
  }
  value.remove_prefix(7);
  return absl::StripAsciiWhitespace(value);
}

const char* NameOf(Scope scope) {
  return scope == Scope::kAdmin ? "admin" : "generate";
}

}  // namespace

void Authorizer::SetTokens(const std::vector<TokenEntry>& entries) {
  auto table = std::make_shared<Table>();
  const absl::Duration now = clock_->Now();
  MutexLock lock(&mutex_);
  std::map<std::string, std::shared_ptr<CallerQuota>> quotas;
  for (const TokenEntry& entry : entries) {
    std::shared_ptr<CallerQuota> quota = quotas_[entry.caller.name];
    if (quota == nullptr) quota = std::make_shared<CallerQuota>();
    CallerLimits limits = entry.limits;
    if (limits.max_concurrent == 0) limits.max_concurrent = max_concurrent_;
    quota->SetLimits(limits);
    for (const Sha256Digest& digest : entry.digests) table->tokens.push_back({digest, table->clients.size()});
    table->clients.push_back({entry.caller, quota});
    quotas[entry.caller.name] = std::move(quota);
  }
  for (auto& [name, quota] : quotas_) {
    if (quota != nullptr && !quota->IsIdle(now)) quotas.emplace(name, std::move(quota));
  }
  quotas_ = std::move(quotas);
  table_ = std::move(table);
}

std::shared_ptr<const Authorizer::Table> Authorizer::table() const {
  MutexLock lock(&mutex_);
  return table_;
}

std::shared_ptr<CallerQuota> Authorizer::PeerQuota(const std::string& peer) const {
  MutexLock lock(&mutex_);
  std::shared_ptr<CallerQuota>& quota = quotas_[peer];
  if (quota != nullptr) return quota;
  quota = std::make_shared<CallerQuota>();
  CallerLimits limits;
  limits.max_concurrent = max_concurrent_;
  quota->SetLimits(limits);
  const std::shared_ptr<CallerQuota> added = quota;
  if (quotas_.size() < max_idle_quotas_) return added;
  const absl::Duration now = clock_->Now();
  for (auto each = quotas_.begin(); each != quotas_.end();) {
    each = each->second != added && each->second.use_count() == 1 && each->second->IsIdle(now) ? quotas_.erase(each)
                                                                                               : std::next(each);
  }
  max_idle_quotas_ = 2 * quotas_.size() + 1024;
  return added;
}

Authorization Authorizer::Authorize(const CallCredentials& credentials, Scope scope, CallCost cost) const {
  const std::shared_ptr<const Table> table = this->table();
  Authorization authorization;
  authorization.caller.name = credentials.peer;
  authorization.caller.is_identified = credentials.has_certificate;
  if (table == nullptr) {
    authorization.caller.may_admin = !credentials.has_certificate;
    if (!authorization.caller.Allows(scope)) {
      authorization.status =
          absl::PermissionDeniedError("the scope admin is a token's; a client certificate does not give it");
    } else if (cost == CallCost::kRequest && max_concurrent_ > 0) {
      Enter(*PeerQuota(credentials.peer), &authorization);
    }
    return authorization;
  }
  authorization.caller.may_generate = authorization.caller.may_admin = false;
  const auto token = BearerToken(credentials);
  if (!token.ok()) {
    authorization.status = token.status();
    return authorization;
  }
  const Sha256Digest digest = Sha256(*token);
  const Client* client = nullptr;
  for (const Token& known : table->tokens) {  // to the end, found or not
    if (EqualInConstantTime(known.digest, digest)) client = &table->clients[known.client];
  }
  if (client == nullptr) {
    authorization.status = absl::UnauthenticatedError("the token is not known here");
    return authorization;
  }
  authorization.caller = client->caller;
  if (!client->caller.Allows(scope)) {
    authorization.status = absl::PermissionDeniedError(
        absl::StrCat("the token of ", client->caller.name, " lacks the scope ", NameOf(scope)));
  } else if (cost == CallCost::kRequest) {
    Enter(*client->quota, &authorization);
  }
  return authorization;
}

void Authorizer::Enter(CallerQuota& quota, Authorization* authorization) const {
  auto place = quota.Enter(clock_->Now());
  if (place.ok()) authorization->place = *std::move(place);
  authorization->status = place.status();
}

absl::Status Authorizer::AuthorizeRequest(const Authorization& authorization, const RequestClaims& claims) const {
  const Caller& caller = authorization.caller;
  if (caller.max_priority.has_value() && claims.priority > *caller.max_priority) {
    return absl::PermissionDeniedError(absl::StrCat("priority: the token of ", caller.name, " allows at most ",
                                                    *caller.max_priority, ", got ", claims.priority));
  }
  const bool is_in_range = claims.num_samples >= 1 && claims.num_samples <= engine::kMaxSamples;
  if (authorization.place == nullptr || !is_in_range) return absl::OkStatus();
  return authorization.place->TakeSamples(claims.num_samples, clock_->Now());
}

}  // namespace spotlight::server
