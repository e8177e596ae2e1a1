// The command line against a server that wants TLS, certificates and tokens.
#include "tests/client/spotlight_runner.h"
#include "tests/server/security/secured_server.h"
#include "tests/testing/tcp_relay.h"

namespace spotlight::server {
namespace {

using spotlight::testing::RunSpotlight;
using spotlight::testing::SpotlightInput;
using spotlight::testing::SpotlightResult;

constexpr char kToken[] = "a-token-0123456789";

class ClientSecurityTest : public SecuredServer {
 protected:
  ClientSecurityTest()
      : SecuredServer([](const CredentialFiles& files) {
          SecurityOptions security;
          security.tls = files.Tls(/*client_certificates=*/true);
          security.token_file =
              files.folder.Write("tokens.json", TokensJson(TokenEntryJson("team", kToken, "\"generate\"")));
          return security;
        }) {
    Serve();
    const auto own = files_.authority.Issue({"alice"});
    own_certificate_ = {"--tls-cert", files_.folder.Write("own.crt", own.certificate_pem), "--tls-key",
                        files_.folder.Write("own.key", own.key_pem)};
    trusted_ = {"--tls-ca", files_.folder.Write("trusted.crt", files_.authority.pem())};
  }

  SpotlightResult Run(const std::string& command, const std::vector<std::vector<std::string>>& flags,
                      const std::string& token = "") {
    std::vector<std::string> arguments = {command, "--connect-timeout", "1"};
    for (const auto& group : flags) arguments.insert(arguments.end(), group.begin(), group.end());
    SpotlightInput input;
    input.token = token;
    return RunSpotlight(absl::StrCat("localhost:", server_->grpc_port()), arguments, input);
  }

  std::vector<std::string> own_certificate_, trusted_;
};

TEST_F(ClientSecurityTest, ACertificateAndATokenLetItIn) {
  const SpotlightResult by_environment = Run("loads", {own_certificate_, trusted_}, kToken);
  EXPECT_EQ(by_environment.exit_code, 0) << by_environment.err;
  const std::string file = files_.folder.Write("token", absl::StrCat(kToken, "\n"));
  const SpotlightResult by_file = Run("loads", {own_certificate_, trusted_, {"--token-file", file}}, "not this one");
  EXPECT_EQ(by_file.exit_code, 0) << by_file.err;
  EXPECT_EQ(TakeRecord().caller, "team");
}

TEST_F(ClientSecurityTest, WithoutThemItSaysWhatIsMissing) {
  EXPECT_EQ(Run("health", {own_certificate_, trusted_}).out, "SERVING\n") << "health needs no token";
  const SpotlightResult no_token = Run("loads", {own_certificate_, trusted_});
  EXPECT_EQ(no_token.exit_code, 3);
  EXPECT_TRUE(absl::StartsWith(no_token.err, "spotlight: UNAUTHENTICATED: this server needs a token")) << no_token.err;
  EXPECT_EQ(Run("health", {trusted_}).exit_code, 5) << "no certificate of its own";
  EXPECT_EQ(Run("health", {}).exit_code, 5) << "no TLS";
  const SpotlightResult untrusted = Run("health", {own_certificate_, {"--tls"}});
  EXPECT_EQ(untrusted.exit_code, 5);
  EXPECT_TRUE(absl::StrContains(untrusted.err, "certificate verify failed")) << untrusted.err;
}

TEST_F(ClientSecurityTest, TheServersNameIsVerified) {
  const auto elsewhere = files_.authority.Issue({"elsewhere", "DNS:elsewhere.example"});
  files_.folder.Write("tls.key", elsewhere.key_pem);
  files_.folder.Write("tls.crt", elsewhere.certificate_pem);
  for (int i = 0; i < 1000 && Metric(Reloads("certificate", "taken")) < 1; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(Run("health", {own_certificate_, trusted_}).exit_code, 5);
  EXPECT_EQ(Run("health", {own_certificate_, trusted_, {"--tls-server-name", "elsewhere.example"}}).exit_code, 0);
}

TEST_F(ClientSecurityTest, ASlowHandshakeIsWaitedFor) {
  const spotlight::testing::TcpRelay distant(server_->grpc_port(), std::chrono::milliseconds(100));
  const SpotlightResult result =
      Run("health", {own_certificate_,
                     trusted_,
                     {"--server", absl::StrCat("localhost:", distant.port()), "--connect-timeout", "10"}});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(ClientSecurityTest, BadFilesAreNamedAndTokensAreNot) {
  EXPECT_TRUE(absl::StrContains(Run("loads", {{"--tls-ca", "/nowhere"}}).err, "--tls-ca /nowhere: No such file"));
  EXPECT_TRUE(absl::StrContains(Run("loads", {{"--tls-cert", "x"}}).err, "--tls-cert and --tls-key come together"));
  const SpotlightResult two_lines = Run("loads", {trusted_}, "one\ntwo-0123456789");
  EXPECT_TRUE(absl::StrContains(two_lines.err, "SPOTLIGHT_TOKEN: a token is visible ASCII")) << two_lines.err;
  const SpotlightResult wrong = Run("loads", {own_certificate_, trusted_}, "wrong-0123456789");
  EXPECT_EQ(wrong.exit_code, 3);
  for (const SpotlightResult& result : {two_lines, wrong}) {
    EXPECT_FALSE(absl::StrContains(result.out + result.err, "0123456789")) << result.err;
  }
}

TEST_F(ClientSecurityTest, ATokenDoesNotCrossTheNetworkInTheClear) {
  const SpotlightResult refused = Run("loads", {{"--server", "192.0.2.1:50051"}}, kToken);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(refused.err,
            "spotlight: the token would cross the network to 192.0.2.1:50051 in the clear; --tls, or "
            "--allow-insecure\n");
  for (const char* target :
       {"ipv4:127.0.0.1:1,192.0.2.1:50051", "ipv6:[::1]:1,[2001:db8::1]:1", "dns:///localhost:1"}) {
    EXPECT_EQ(Run("loads", {{"--server", target}}, kToken).exit_code, 2) << target;
  }
}

class PlaintextTokenTest : public SecuredServer {
 protected:
  PlaintextTokenTest()
      : SecuredServer([](const CredentialFiles& files) {
          SecurityOptions security;
          security.token_file =
              files.folder.Write("tokens.json", TokensJson(TokenEntryJson("team", kToken, "\"generate\"")));
          return security;
        }) {
    Serve();
  }
};

TEST_F(PlaintextTokenTest, OnThisMachineATokenNeedsNoTls) {
  SpotlightInput input;
  input.token = kToken;
  const SpotlightResult result =
      RunSpotlight(absl::StrCat("127.0.0.1:", server_->grpc_port()), {"loads", "--json"}, input);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(TakeRecord().caller, "team");
  const SpotlightResult balanced =
      RunSpotlight(absl::StrCat("ipv4:127.0.0.1:", server_->grpc_port()), {"loads", "--json"}, input);
  EXPECT_EQ(balanced.exit_code, 0) << balanced.err;
}

}  // namespace
}  // namespace spotlight::server
