// The flags of TLS and of the token. Secrets come from files and the environment: a command line is for all to see.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/channel.h"
#include "client/command_line.h"

namespace spotlight::client {

struct SecurityFlags {
  bool tls = false;
  std::string ca_file, certificate_file, key_file, server_name;
  std::string token_file;
  bool allow_insecure = false;

  // Target *this, which must outlive them.
  std::vector<Option> Options();

  // Reads the files; `default_token` where no file is named. INVALID_ARGUMENT names the flag or the file, also where a
  // token would go to another host than this without TLS.
  absl::StatusOr<ChannelSecurity> Load(const std::string& server, const std::string& default_token) const;
};

}  // namespace spotlight::client
