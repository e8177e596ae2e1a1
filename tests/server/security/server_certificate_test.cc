#include "server/security/server_certificate.h"

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/testing/certificates.h"

namespace spotlight::server {
namespace {

using spotlight::testing::CertificateAuthority;
using spotlight::testing::IssuedCertificate;

class ServerCertificateTest : public ::testing::Test {
 protected:
  std::string Error(const std::string& certificate, const std::string& key, const std::string& client_ca) const {
    return std::string(
        ServerCertificate::Parse(options_, {certificate, key, client_ca}, absl::Now()).status().message());
  }

  const TlsOptions options_{"CERT", "KEY", "CA"};
  CertificateAuthority authority_{"authority"};
  const IssuedCertificate server_ = authority_.Issue({"server"});
};

TEST_F(ServerCertificateTest, AChainWithItsKeyIsTaken) {
  const auto parsed = ServerCertificate::Parse(
      options_, {server_.certificate_pem + authority_.pem(), server_.key_pem, authority_.pem()}, absl::Now());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_LT(absl::AbsDuration((*parsed)->not_after() - absl::Now() - absl::Hours(1)), absl::Minutes(1));
  EXPECT_EQ((*parsed)->client_ca_pem(), authority_.pem());
}

TEST_F(ServerCertificateTest, ErrorsNameTheFileAndWhatIsWrongWithIt) {
  const std::string& certificate = server_.certificate_pem;
  EXPECT_EQ(Error("garbage", server_.key_pem, authority_.pem()), "CERT: holds no certificate in PEM");
  EXPECT_EQ(Error("", server_.key_pem, authority_.pem()), "CERT: holds no certificate in PEM");
  EXPECT_EQ(Error(certificate, "garbage", authority_.pem()), "KEY: holds no private key in PEM");
  EXPECT_EQ(Error(certificate, certificate, authority_.pem()), "KEY: holds no private key in PEM");
  EXPECT_EQ(Error(certificate, server_.key_pem, "garbage"), "CA: holds no certificate in PEM");
  EXPECT_EQ(Error(certificate, authority_.Issue({"other"}).key_pem, authority_.pem()),
            "KEY: is not the key of CERT: key values mismatch");
  EXPECT_EQ(Error(certificate, spotlight::testing::Encrypted(server_.key_pem, "password"), authority_.pem()),
            "KEY: the key is encrypted; one without a password is needed");
  const std::string cut = certificate.substr(0, certificate.size() / 2);
  EXPECT_TRUE(absl::StartsWith(Error(cut, server_.key_pem, authority_.pem()), "CERT: certificate 1: "));
  EXPECT_TRUE(absl::StartsWith(Error(certificate + cut, server_.key_pem, authority_.pem()), "CERT: certificate 2: "));
}

TEST_F(ServerCertificateTest, AnExpiredCertificateIsRefused) {
  const IssuedCertificate expired = authority_.Issue({"server", "DNS:localhost", -120, -60});
  EXPECT_TRUE(
      absl::StartsWith(Error(expired.certificate_pem, expired.key_pem, authority_.pem()), "CERT: expired at 20"));
}

}  // namespace
}  // namespace spotlight::server
