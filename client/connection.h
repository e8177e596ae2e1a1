// What every subcommand does first and last: flags of the connection, connecting, telling an error.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "client/command_line.h"
#include "client/console.h"
#include "client/exit_code.h"
#include "client/generate_client.h"

namespace spotlight::client {

struct ConnectionFlags {
  explicit ConnectionFlags(const Console& console) : server(console.default_server) {}

  std::string server;
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration deadline = absl::InfiniteDuration();

  // Targets *this, which must outlive the group.
  OptionGroup Options();
  CallOptions Call(Cancellation* cancellation) const { return {deadline, cancellation}; }
};

// Parses into the command's targets. A value: print nothing more and exit with it (--help, or a usage error).
absl::optional<ExitCode> ParseOrExit(const Command& command, absl::Span<const std::string> arguments,
                                     const Console& console);

// --server with the port that it stands for.
std::string ServerAddress(const ConnectionFlags& flags);

// A channel as the flags say, not connected yet.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelFor(const ConnectionFlags& flags, bool own_connection = false);

// A client that has reached its server.
absl::StatusOr<std::unique_ptr<GenerateClient>> Connect(const ConnectionFlags& flags, Cancellation* cancellation);

// One line on stderr; the exit code to match.
ExitCode Fail(const Console& console, const absl::Status& status);
ExitCode FailUsage(const Console& console, absl::string_view message);

// A subcommand's whole output at once.
ExitCode Print(const Console& console, absl::string_view text);

}  // namespace spotlight::client
