// TLS and client certificates over real connections, and certificates that change under them.
#include <openssl/x509.h>

#include "tests/server/security/secured_server.h"

namespace spotlight::server {
namespace {

class TlsServerTest : public SecuredServer {
 protected:
  TlsServerTest() : TlsServerTest(/*client_certificates=*/false) {}
  explicit TlsServerTest(bool client_certificates)
      : SecuredServer([client_certificates](const CredentialFiles& files) {
          SecurityOptions security;
          security.tls = files.Tls(client_certificates);
          return security;
        }) {
    Serve();
  }

  // Of a call on a connection of its own. The server's certificate name is in `*served`.
  grpc::Status Call(const std::shared_ptr<grpc::ChannelCredentials>& credentials, std::string* served = nullptr) {
    const auto stub = v1::Generation::NewStub(Connect(credentials));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::GetLoadsResponse response;
    const grpc::Status status = stub->GetLoads(&context, {}, &response);
    if (status.ok() && served != nullptr) {
      const auto names = context.auth_context()->FindPropertyValues("x509_common_name");
      *served = names.empty() ? "" : std::string(names[0].data(), names[0].size());
    }
    return status;
  }
  std::string ServedName(const spotlight::testing::IssuedCertificate& own = {}) {
    std::string name;
    const grpc::Status status = Call(files_.Client(own), &name);
    return status.ok() ? name : status.error_message();
  }
};

TEST_F(TlsServerTest, ClientsThatTrustTheAuthorityAreServedAndOthersAreNot) {
  EXPECT_EQ(ServedName(), "first");
  EXPECT_EQ(Call(grpc::InsecureChannelCredentials()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(grpc::SslCredentials({files_.stranger.pem(), "", ""})).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsServerTest, AStreamRunsOverTls) {
  const auto stub = v1::Generation::NewStub(Connect(files_.Client()));
  grpc::ClientContext context;
  auto reader = stub->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine_.Send("a", Delta("hello", {1}));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.text(), "hello");
  engine_.Finish("a", engine_.Stopped(5, 1));
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(TlsServerTest, NewConnectionsGetTheNewCertificateAndOldOnesGoOn) {
  const auto old_stub = v1::Generation::NewStub(Connect(files_.Client()));
  const auto call = [&old_stub] {
    grpc::ClientContext context;
    v1::GetLoadsResponse response;
    return old_stub->GetLoads(&context, {}, &response).ok();
  };
  EXPECT_TRUE(call());
  // First the key alone: a pair that does not match is not served.
  const auto issued = files_.authority.Issue({"second", "DNS:localhost,IP:127.0.0.1", -60, 7200});
  files_.folder.Write("tls.key", issued.key_pem);
  ASSERT_TRUE(ReloadsBecome("certificate", "refused", 1));
  EXPECT_EQ(ServedName(), "first");
  files_.folder.Write("tls.crt", issued.certificate_pem);
  ASSERT_TRUE(ReloadsBecome("certificate", "taken", 1));
  EXPECT_EQ(ServedName(), "second");
  EXPECT_TRUE(call());
  EXPECT_NEAR(Metric("spotlight_certificate_expiry_timestamp_seconds{model_name=\"fake\"}"),
              absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) + 7200, 60);
}

TEST_F(TlsServerTest, GarbageIsLoggedAndTheOldCertificateGoesOn) {
  int num_refused = 0;
  for (const std::string& garbage : {std::string("garbage"), std::string(), std::string("\0\xff", 2),
                                     std::string("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}) {
    files_.folder.Write("tls.crt", garbage);
    ASSERT_TRUE(ReloadsBecome("certificate", "refused", ++num_refused)) << garbage;
    EXPECT_EQ(ServedName(), "first");
  }
  files_.folder.Remove("tls.crt");
  ASSERT_TRUE(ReloadsBecome("certificate", "refused", ++num_refused));
  EXPECT_EQ(ServedName(), "first");
  files_.WriteCertificate("second");
  for (int i = 0; i < 1000 && ServedName() != "second"; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(ServedName(), "second");
  const std::string key = files_.authority.Issue({"third"}).key_pem;
  num_refused = static_cast<int>(Metric(Reloads("certificate", "refused")));
  files_.folder.Write("tls.crt", key);  // the wrong file, with a secret in it
  ASSERT_TRUE(ReloadsBecome("certificate", "refused", num_refused + 1));
  server_->Shutdown();
  EXPECT_TRUE(absl::StrContains(log_.text(), "what was loaded before goes on: " + files_.folder.Path("tls.crt") +
                                                 ": holds no certificate in PEM"))
      << log_.text();
  EXPECT_FALSE(absl::StrContains(log_.text(), "PRIVATE KEY")) << log_.text();
  EXPECT_FALSE(absl::StrContains(log_.text(), key.substr(40, 20))) << log_.text();
}

class ClientCertificateTest : public TlsServerTest {
 protected:
  ClientCertificateTest() : TlsServerTest(/*client_certificates=*/true) {}
};

TEST_F(ClientCertificateTest, OnlyClientsWithACertificateOfTheAuthorityAreServed) {
  EXPECT_EQ(ServedName(files_.authority.Issue({"alice"})), "first");
  EXPECT_EQ(TakeRecord().caller, "x509:alice");
  EXPECT_EQ(ServedName(files_.authority.Issue({"bob", "URI:spiffe://example.org/bob"})), "first");
  EXPECT_EQ(TakeRecord().caller, "x509:spiffe://example.org/bob");
  EXPECT_EQ(Call(files_.Client()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(files_.Client(files_.stranger.Issue({"mallory"}))).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ClientCertificateTest, LongNamesThatDifferAtTheirEndsAreTwoCallers) {
  std::string callers[2];
  for (int i = 0; i < 2; ++i) {
    const std::string id = absl::StrCat("URI:spiffe://example.org/", std::string(300, 'a'), i);
    EXPECT_EQ(ServedName(files_.authority.Issue({"alice", id})), "first");
    callers[i] = TakeRecord().caller;
    EXPECT_TRUE(absl::StartsWith(callers[i], "x509:spiffe://example.org/aaa")) << callers[i];
    EXPECT_EQ(callers[i].size(), 256u);
  }
  EXPECT_NE(callers[0], callers[1]);
}

TEST_F(ClientCertificateTest, TheAuthoritiesChangeWithTheirFile) {
  const auto alice = files_.authority.Issue({"alice"});
  const auto carol = files_.stranger.Issue({"carol"});
  files_.folder.Write("ca.crt", files_.stranger.pem());
  ASSERT_TRUE(ReloadsBecome("certificate", "taken", 1));
  EXPECT_EQ(ServedName(carol), "first");
  EXPECT_NE(ServedName(alice), "first");
  files_.folder.Write("ca.crt", "garbage");
  ASSERT_TRUE(ReloadsBecome("certificate", "refused", 1));
  EXPECT_EQ(ServedName(carol), "first");
  EXPECT_NE(ServedName(), "first") << "no authorities is not no certificates";
}

TEST(TlsStartTest, AServerWithoutAReadableCertificateDoesNotStart) {
  CredentialFiles files;
  ServerOptions options;
  options.listen.port = options.http.port = 0;
  options.security.tls = files.Tls(false);
  files.folder.Write("tls.key", "garbage");
  EXPECT_EQ(Server::Start(options, nullptr).status().message(),
            files.folder.Path("tls.key") + ": holds no private key in PEM");
}

class HttpsServerTest : public SecuredServer {
 protected:
  HttpsServerTest()
      : SecuredServer([](const CredentialFiles& files) {
          SecurityOptions security;
          security.tls = files.Tls(/*client_certificates=*/true);
          security.http_tls = true;
          return security;
        }) {
    ca_path_ = files_.folder.Write("trusted.crt", files_.authority.pem());
  }

  // The common name in the certificate that the port shows, if the page comes; a client certificate is never asked for.
  std::string ServedName() const {
    httplib::SSLClient client("localhost", server_->http_port());
    client.set_ca_cert_path(ca_path_.c_str());
    client.enable_server_certificate_verification(true);
    const auto page = client.Get("/healthz");
    if (!page || page->status != 200) return httplib::to_string(page.error());
    const std::unique_ptr<X509, decltype(&X509_free)> certificate(PeerCertificate(), X509_free);
    char name[100] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate.get()), NID_commonName, name, sizeof(name));
    return name;
  }

 private:
  X509* PeerCertificate() const {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    BIO* connection = BIO_new_ssl_connect(context);
    BIO_set_conn_hostname(connection, absl::StrCat("127.0.0.1:", server_->http_port()).c_str());
    EXPECT_EQ(BIO_do_connect(connection), 1);
    SSL* ssl = nullptr;
    BIO_get_ssl(connection, &ssl);
    X509* certificate = SSL_get1_peer_certificate(ssl);
    BIO_free_all(connection);
    SSL_CTX_free(context);
    return certificate;
  }

  std::string ca_path_;
};

TEST_F(HttpsServerTest, TheHttpPortServesTheSameCertificateAndItsSuccessors) {
  EXPECT_EQ(ServedName(), "first");
  httplib::Client plain("127.0.0.1", server_->http_port());
  EXPECT_FALSE(plain.Get("/healthz"));
  files_.WriteCertificate("second");
  for (int i = 0; i < 500 && ServedName() != "second"; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(ServedName(), "second");
}

}  // namespace
}  // namespace spotlight::server
