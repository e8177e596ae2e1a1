// Who may call what, decided once at the head of every call. (gRPC's AuthMetadataProcessor does not run on plaintext
// ports, and a server interceptor cannot end a call with a status of its own.)
#pragma once

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

// Thread-safe.
class Authorizer {
 public:
  explicit Authorizer(const engine::Clock* clock = engine::Clock::Steady()) : clock_(clock) {}

  // From now on every call needs one of these tokens. What the limits have counted stays with the name.
  void SetTokens(const std::vector<TokenEntry>& entries);

  // Without tokens everybody may do everything. UNAUTHENTICATED: no token, or none that is known; PERMISSION_DENIED:
  // another scope is needed; RESOURCE_EXHAUSTED: see CallerQuota. Messages name the caller, never the token.
  Authorization Authorize(const CallCredentials& credentials, Scope scope, CallCost cost) const;

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

  const engine::Clock* const clock_;
  mutable Mutex mutex_;
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mutex_);  // null: no tokens
};

}  // namespace spotlight::server
