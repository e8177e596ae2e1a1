#include "server/security_flags.h"

#include <cmath>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"

ABSL_FLAG(std::string, tls_cert, "",
          "Serve TLS with this certificate: PEM, its intermediate certificates behind it; empty: plaintext");
ABSL_FLAG(std::string, tls_key, "", "Its private key: PEM, not encrypted");
ABSL_FLAG(std::string, tls_client_ca, "",
          "Refuse clients without a certificate that one of these authorities signed: PEM; empty: none is asked for");
ABSL_FLAG(bool, http_tls, false, "Serve --http over TLS as well, with the same certificate; no client's is asked for");
ABSL_FLAG(std::string, token_file, "",
          "Refuse calls without a bearer token of this file: JSON, names, SHA-256 digests, scopes and limits; empty: "
          "none is needed");
ABSL_FLAG(int32_t, max_concurrent_per_caller, 0,
          "Requests in progress, running or waiting, of a caller to whom no token gives a max_concurrent of its own; "
          "more are refused. 0: any number");
ABSL_FLAG(bool, share_prefix_cache, false,
          "Let callers with different tokens or client certificates use each other's cached prompts; each then sees "
          "whether another has sent the same");
ABSL_FLAG(double, credentials_reload_seconds, 5, "How often the files above are looked at for changes");
ABSL_FLAG(bool, allow_insecure, false, "Let --listen be another address than loopback without TLS");
ABSL_FLAG(
    std::string, reflection, "auto",
    "Serve gRPC reflection, which tools such as grpcurl read, to anyone who can connect; auto: without --token-file");
ABSL_FLAG(bool, channelz, false, "Serve channelz, figures of connections and calls, to anyone who can connect");
ABSL_FLAG(bool, load_reports, true,
          "Serve ORCA load reports for balancers: with each call, and to anyone who can connect");
ABSL_FLAG(double, max_connection_age_seconds, 0,
          "Ask connections of this age to go, so that clients spread over new replicas; 0: never");
ABSL_FLAG(double, connection_grace_seconds, 0,
          "What the streams of such a connection get before it is closed; 0: as long as they take");
ABSL_FLAG(double, keepalive_seconds, 60,
          "Ping a client that has sent nothing for so long, to find out when its host has gone without a word");
ABSL_FLAG(double, keepalive_timeout_seconds, 20,
          "What it has to answer; then its connection is closed, and its requests end");
ABSL_FLAG(double, request_read_seconds, 60, "End a call whose request is not whole so long after it began; 0: never");
ABSL_FLAG(double, max_unread_seconds, 300,
          "End a call whose client has taken nothing of what is written to it for so long; 0: never");

namespace spotlight::server {
namespace {

// Milliseconds of gRPC's options are 32 bits.
constexpr double kMaxSeconds = 2'000'000;

absl::Status Invalid(absl::string_view flag, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", what));
}

absl::Status ReadSeconds(absl::string_view flag, double seconds, double at_least, absl::Duration* duration) {
  if (!(seconds >= at_least && seconds <= kMaxSeconds)) {
    return Invalid(flag, absl::StrCat("must be ", at_least, " to ", kMaxSeconds, ", got ", seconds));
  }
  *duration = absl::Seconds(seconds);
  return absl::OkStatus();
}

absl::Status ReadTls(const ListenAddress& listen, SecurityOptions* security) {
  TlsOptions& tls = security->tls;
  tls.certificate_file = absl::GetFlag(FLAGS_tls_cert);
  tls.key_file = absl::GetFlag(FLAGS_tls_key);
  tls.client_ca_file = absl::GetFlag(FLAGS_tls_client_ca);
  security->http_tls = absl::GetFlag(FLAGS_http_tls);
  if (tls.enabled() && tls.key_file.empty()) return Invalid("tls-cert", "needs --tls-key");
  if (tls.enabled()) return absl::OkStatus();
  if (!tls.key_file.empty()) return Invalid("tls-key", "needs --tls-cert");
  if (!tls.client_ca_file.empty()) return Invalid("tls-client-ca", "needs --tls-cert and --tls-key");
  if (security->http_tls) return Invalid("http-tls", "needs --tls-cert and --tls-key");
  if (!listen.is_loopback() && !absl::GetFlag(FLAGS_allow_insecure)) {
    return Invalid("listen", absl::StrCat(listen.ToString(),
                                          " is not a loopback address: prompts would cross the network without TLS "
                                          "(--tls-cert, --tls-key); --allow-insecure permits it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadSecurityFlags(ServerOptions* options) {
  SecurityOptions& security = options->security;
  security.token_file = absl::GetFlag(FLAGS_token_file);
  security.max_concurrent_per_caller = absl::GetFlag(FLAGS_max_concurrent_per_caller);
  if (security.max_concurrent_per_caller < 0) {
    return Invalid("max-concurrent-per-caller",
                   absl::StrCat("must be at least 0, got ", security.max_concurrent_per_caller));
  }
  const std::string reflection = absl::GetFlag(FLAGS_reflection);
  if (reflection != "auto" && reflection != "on" && reflection != "off") {
    return Invalid("reflection", absl::StrCat("must be auto, on or off, got \"", reflection, "\""));
  }
  options->reflection = reflection == "on" || (reflection == "auto" && security.token_file.empty());
  options->share_prefix_cache = absl::GetFlag(FLAGS_share_prefix_cache);
  options->channelz = absl::GetFlag(FLAGS_channelz);
  options->load_reports = absl::GetFlag(FLAGS_load_reports);
  if (absl::GetFlag(FLAGS_connection_grace_seconds) > 0 && absl::GetFlag(FLAGS_max_connection_age_seconds) == 0) {
    return Invalid("connection-grace-seconds", "needs --max-connection-age-seconds");
  }
  for (const absl::Status& status :
       {ReadTls(options->listen, &security),
        ReadSeconds("credentials-reload-seconds", absl::GetFlag(FLAGS_credentials_reload_seconds), 0.1,
                    &security.reload_interval),
        ReadSeconds("max-connection-age-seconds", absl::GetFlag(FLAGS_max_connection_age_seconds), 0,
                    &options->max_connection_age),
        ReadSeconds("connection-grace-seconds", absl::GetFlag(FLAGS_connection_grace_seconds), 0,
                    &options->connection_grace),
        ReadSeconds("keepalive-seconds", absl::GetFlag(FLAGS_keepalive_seconds), 0.1, &options->keepalive_time),
        ReadSeconds("keepalive-timeout-seconds", absl::GetFlag(FLAGS_keepalive_timeout_seconds), 0.1,
                    &options->keepalive_timeout),
        ReadSeconds("request-read-seconds", absl::GetFlag(FLAGS_request_read_seconds), 0, &options->request_patience),
        ReadSeconds("max-unread-seconds", absl::GetFlag(FLAGS_max_unread_seconds), 0, &options->unread_patience)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace spotlight::server
