// Who is behind a call: what scopes, limits, fairness between clients and the request log go by.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/optional.h"

namespace spotlight::server {

enum class Scope : uint8_t {
  kGenerate,  // Generate, GenerateStream, Tokenize, Detokenize
  kAdmin,     // /debug/profile, and Abort of anybody's request
  kAny,       // what a caller of either scope may ask: GetModelInfo, GetServerInfo, GetLoads, Abort of its own request
};

struct Caller {
  // Stable over the caller's connections, at most 256 bytes, and never secret. With tokens the token's name ("search");
  // else "x509:" and the client certificate's identity; else the peer's address without its port ("ipv4:10.0.0.7"),
  // which all clients behind one proxy share. Token names have no colon.
  std::string name;
  // By its token or its client certificate; false: by its address, which others may share.
  bool is_identified = false;
  bool may_generate = true;
  bool may_admin = true;
  absl::optional<int32_t> max_priority;  // of its requests; a token's, absent: any

  bool Allows(Scope scope) const {
    return scope == Scope::kGenerate ? may_generate : scope == Scope::kAdmin ? may_admin : may_generate || may_admin;
  }
};

}  // namespace spotlight::server
