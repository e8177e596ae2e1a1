#include "client/connection.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/error_details.h"

namespace spotlight::client {
namespace {

// On a status that no server had a part in.
constexpr char kWrongUsage[] = "spotlight/wrong_usage";

}  // namespace

OptionGroup ConnectionFlags::Options() {
  OptionGroup group = {
      "Connection",
      {Text("server", "HOST[:PORT]",
            absl::StrCat("the server, on port 50051 if not told, or unix:PATH; default ", server,
                         ", which the environment variable SPOTLIGHT_SERVER may set. Replicas: dns:///HOST[:PORT] for "
                         "every address of the name, or ipv4:IP:PORT,IP:PORT; calls take them in turns, and what one "
                         "cannot serve goes to the next"),
            [this](std::string value) { server = std::move(value); }),
       Real("connect-timeout", "SECONDS", Between(0, 3600),
            absl::StrCat("how long to wait for the server; default ", absl::ToDoubleSeconds(connect_timeout)),
            [this](double value) { connect_timeout = absl::Seconds(value); }),
       Real("deadline", "SECONDS", Above(0), "give up this long after the request was sent; default none",
            [this](double value) { deadline = absl::Seconds(value); })}};
  for (Option& option : security.Options()) group.options.push_back(std::move(option));
  return group;
}

absl::optional<ExitCode> ParseOrExit(const Command& command, absl::Span<const std::string> arguments,
                                     const Console& console) {
  bool help_wanted = false;
  const absl::Status status = ParseOptions(command, arguments, &help_wanted);
  if (!status.ok()) return FailUsage(console, status.message());
  if (help_wanted) return Print(console, absl::StrCat(HelpText(command), "\n", kExitCodesHelp));
  return absl::nullopt;
}

std::string ServerAddress(const ConnectionFlags& flags) {
  // Without a port gRPC would try 443.
  absl::string_view host = flags.server;
  if (absl::ConsumePrefix(&host, "dns:")) host = host.substr(host.rfind('/') + 1);
  return absl::StrContains(host, ":") ? flags.server : flags.server + ":50051";
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelFor(const ConnectionFlags& flags, bool own_connection) {
  const std::string server = ServerAddress(flags);
  const auto security = flags.security.Load(server, flags.default_token);
  if (!security.ok()) {
    absl::Status wrong_usage = security.status();
    wrong_usage.SetPayload(kWrongUsage, absl::Cord());
    return wrong_usage;
  }
  return CreateChannel(server, own_connection, *security);
}

absl::StatusOr<std::unique_ptr<GenerateClient>> Connect(const ConnectionFlags& flags, Cancellation* cancellation) {
  const std::string server = ServerAddress(flags);
  const auto channel = ChannelFor(flags);
  if (!channel.ok()) return channel.status();
  auto client = std::make_unique<GenerateClient>(*channel);
  const absl::Status status = client->WaitForConnection(flags.connect_timeout, cancellation);
  if (absl::IsUnavailable(status)) {
    return absl::UnavailableError(absl::StrCat("cannot reach ", server, " within ",
                                               absl::FormatDuration(flags.connect_timeout), ": ", status.message()));
  }
  if (!status.ok()) return status;
  return client;
}

ExitCode Fail(const Console& console, const absl::Status& status) {
  if (status.GetPayload(kWrongUsage).has_value()) return FailUsage(console, status.message());
  const std::string line = absl::IsCancelled(status) ? "cancelled" : ErrorLine(status);
  *console.err << "spotlight: " << line << "\n" << std::flush;
  return ExitCodeOf(status);
}

ExitCode FailUsage(const Console& console, absl::string_view message) {
  *console.err << "spotlight: " << message << "\n" << std::flush;
  return kExitUsage;
}

ExitCode Print(const Console& console, absl::string_view text) {
  absl::Status reason;
  if (Write(console.out, text, &reason)) return kExitOk;
  return reason.ok() ? kExitCancelled : Fail(console, reason);
}

}  // namespace spotlight::client
