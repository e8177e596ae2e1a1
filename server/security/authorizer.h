// Who may call what, decided once at the head of every call. (gRPC's AuthMetadataProcessor does not run on plaintext
// ports, and a server interceptor cannot end a call with a status of its own.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/clock.h"
#include "engine/mutex.h"
#include "server/security/caller.h"
#include "server/security/caller_quota.h"
#include "server/security/token_file.h"

namespace spotlight::server {

// What a call came with. Views live as long as the call.
struct CallCredentials {
  std::vector<absl::string_view> authorization;  // every value of that metadata
  std::string peer;                              // Caller::name where there are no tokens
  bool has_certificate = false;                  // the client showed one
};

// Holds the caller's place among its concurrent requests until the last copy is gone.
struct Authorization {
  absl::Status status;
  Caller caller;             // the token's once that is known, else the peer
  CallerQuota::Place place;  // null: not counted
};

enum class CallCost : uint8_t {
  kFree,     // a question about the server
  kRequest,  // counts against the caller's rate and concurrency
};

// What a generation request asks for beside tokens. Its ranges are the engine's to check.
struct RequestClaims {
  int32_t priority = 0;
  int32_t num_samples = 1;  // each counts as a request
};

// Thread-safe.
class Authorizer {
 public:
  explicit Authorizer(const engine::Clock* clock = engine::Clock::Steady()) : clock_(clock) {}

  // Of every caller that no token gives a limit of its own; 0: any number. Before all else.
  void SetMaxConcurrent(int32_t max_concurrent) { max_concurrent_ = max_concurrent; }

  // From now on every call needs one of these tokens. What the limits have counted stays with the name, even while no
  // token has it.
  void SetTokens(const std::vector<TokenEntry>& entries);

  // Without tokens everybody may do everything, but for the scope admin of clients with certificates, which is nobody's
  // then: who can be told apart is not to rule the others. UNAUTHENTICATED: no token, or none that is known;
  // PERMISSION_DENIED: another scope is needed; RESOURCE_EXHAUSTED: see CallerQuota. Messages name the caller, never
  // the token.
  Authorization Authorize(const CallCredentials& credentials, Scope scope, CallCost cost) const;

  // The second look at a generation call, once, when its request is parsed. PERMISSION_DENIED: its priority;
  // INVALID_ARGUMENT, RESOURCE_EXHAUSTED: see CallerQuota.
  absl::Status AuthorizeRequest(const Authorization& authorization, const RequestClaims& claims) const;

 private:
  struct Client {
    Caller caller;
    std::shared_ptr<CallerQuota> quota;
  };
  struct Token {
    Sha256Digest digest;
    size_t client;
  };
  struct Table {
    std::vector<Client> clients;
    std::vector<Token> tokens;
  };

  std::shared_ptr<const Table> table() const;
  void Enter(CallerQuota& quota, Authorization* authorization) const;
  // Of a caller without a token.
  std::shared_ptr<CallerQuota> PeerQuota(const std::string& peer) const;

  const engine::Clock* const clock_;
  int32_t max_concurrent_ = 0;
  mutable Mutex mutex_;
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mutex_);  // null: no tokens
  // By name: the table's, and what is still in use of those that left it; without tokens, the peers'.
  mutable std::map<std::string, std::shared_ptr<CallerQuota>> quotas_ ABSL_GUARDED_BY(mutex_);
  mutable size_t max_idle_quotas_ ABSL_GUARDED_BY(mutex_) = 1024;  // at so many it is time to look for idle ones
};

}  // namespace spotlight::server
