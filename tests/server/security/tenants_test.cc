// What callers that are told apart may learn of and do to each other's requests, over the real engine.
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/server/security/secured_server.h"
#include "tests/server/served_engine.h"

namespace spotlight::server {
namespace {

constexpr char kOne[] = "one-token-0123456789";
constexpr char kTwo[] = "two-token-0123456789";
constexpr char kOps[] = "ops-token-0123456789";
constexpr int kPages = 2;  // full ones, of the prompt that both send

class TenantsTest : protected WithCredentialFiles, public ServedEngine {
 protected:
  using SetOptions = std::function<void(const CredentialFiles&, ServerOptions*)>;
  using Stub = std::unique_ptr<v1::Generation::Stub>;

  explicit TenantsTest(const SetOptions& set) : ServedEngine(Options(files_, set)) { Start(); }

  static ServerOptions Options(const CredentialFiles& files, const SetOptions& set) {
    ServerOptions options;
    set(files, &options);
    return options;
  }
  static void SetTokens(const CredentialFiles& files, ServerOptions* options) {
    options->security.token_file =
        files.folder.Write("tokens.json", TokensJson(absl::StrCat(TokenEntryJson("one", kOne, "\"generate\""), ",",
                                                                  TokenEntryJson("two", kTwo, "\"generate\""), ",",
                                                                  TokenEntryJson("ops", kOps, "\"admin\""))));
  }

  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> reader;

    v1::FinishReason ReadToEnd() {
      v1::GenerateStreamResponse message;
      while (reader->Read(&message)) {
      }
      reader->Finish();
      return message.finish_reason();
    }
  };
  static void Authorize(grpc::ClientContext* context, const std::string& token) {
    if (!token.empty()) context->AddMetadata("authorization", "Bearer " + token);
  }
  // Of the request "x", sent and perhaps not there yet.
  static std::unique_ptr<Stream> Send(const Stub& stub, const std::string& token) {
    auto stream = std::make_unique<Stream>();
    Authorize(&stream->context, token);
    stream->reader = stub->GenerateStream(&stream->context, TokensRequest("x", 1500));
    return stream;
  }
  // Running, and a step under way until Resume.
  std::unique_ptr<Stream> Hold(const Stub& stub, const std::string& token) {
    auto stream = Send(stub, token);
    v1::GenerateStreamResponse message;
    EXPECT_TRUE(stream->reader->Read(&message));
    runner_->Pause();
    return stream;
  }
  static grpc::StatusCode Abort(const Stub& stub, const std::string& token) {
    grpc::ClientContext context;
    Authorize(&context, token);
    v1::AbortRequest request;
    request.set_request_id("x");
    v1::AbortResponse response;
    return stub->Abort(&context, request, &response).error_code();
  }

  // Of the prompt's tokens, after how many it began. `token` may be empty.
  static int32_t CachedTokens(const Stub& stub, const std::string& token, const std::string& salt = "") {
    grpc::ClientContext context;
    Authorize(&context, token);
    v1::GenerateRequest request = TokensRequest("", 1);
    for (int i = 3; i < kPages * 64 + 10; ++i) request.mutable_token_ids()->add_ids(i % 50);
    request.set_cache_salt(salt);
    v1::GenerateResponse response;
    const grpc::Status status = stub->Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.usage().cached_prompt_tokens();
  }
};

class TokensTest : public TenantsTest {
 protected:
  TokensTest() : TenantsTest(SetTokens) {}
};

TEST_F(TokensTest, ACallerSeesNothingOfAnothersCachedPrompts) {
  EXPECT_EQ(CachedTokens(stub_, kOne), 0);
  EXPECT_EQ(CachedTokens(stub_, kOne), kPages * 64);
  EXPECT_EQ(CachedTokens(stub_, kTwo), 0);
  EXPECT_EQ(CachedTokens(stub_, kTwo), kPages * 64);
}

TEST_F(TokensTest, ASaltIsTheCallersOwn) {
  EXPECT_EQ(CachedTokens(stub_, kOne, "salt"), 0);
  EXPECT_EQ(CachedTokens(stub_, kOne), 0);
  EXPECT_EQ(CachedTokens(stub_, kTwo, "salt"), 0);
  EXPECT_EQ(CachedTokens(stub_, kOne, "salt"), kPages * 64);
}

TEST_F(TokensTest, ACallerAbortsItsOwnRequestsAndNobodyElses) {
  const auto ones = Hold(stub_, kOne);
  EXPECT_EQ(Abort(stub_, kTwo), grpc::StatusCode::NOT_FOUND);
  const auto twos = Send(stub_, kTwo);
  while (Abort(stub_, kTwo) == grpc::StatusCode::NOT_FOUND) std::this_thread::yield();
  runner_->Resume();
  EXPECT_EQ(twos->ReadToEnd(), v1::FINISH_REASON_ABORTED);
  EXPECT_EQ(ones->ReadToEnd(), v1::FINISH_REASON_LENGTH) << "another's request of the same id";
}

TEST_F(TokensTest, AnAdminAbortsAnybodysRequest) {
  const auto ones = Hold(stub_, kOne);
  EXPECT_EQ(Abort(stub_, kOps), grpc::StatusCode::OK);
  runner_->Resume();
  EXPECT_EQ(ones->ReadToEnd(), v1::FINISH_REASON_ABORTED);
}

class SharedCacheTest : public TenantsTest {
 protected:
  SharedCacheTest()
      : TenantsTest([](const CredentialFiles& files, ServerOptions* options) {
          SetTokens(files, options);
          options->share_prefix_cache = true;
        }) {}
};

TEST_F(SharedCacheTest, TheFlagLetsCallersShareCachedPrompts) {
  EXPECT_EQ(CachedTokens(stub_, kOne), 0);
  EXPECT_EQ(CachedTokens(stub_, kTwo), kPages * 64);
  EXPECT_EQ(CachedTokens(stub_, kTwo, "salt"), 0);
}

class CertificatesTest : public TenantsTest {
 protected:
  CertificatesTest()
      : TenantsTest([](const CredentialFiles& files, ServerOptions* options) {
          options->security.tls = files.Tls(/*client_certificates=*/true);
        }) {}

  // Of a client with a certificate of this name.
  Stub StubOf(const std::string& name, const std::string& alternative_names = "DNS:localhost") {
    return v1::Generation::NewStub(Connect(files_.Client(files_.authority.Issue({name, alternative_names}))));
  }
};

TEST_F(CertificatesTest, CallersByCertificateSeeNothingOfEachOthersCachedPrompts) {
  const Stub one = StubOf("one"), two = StubOf("two");
  EXPECT_EQ(CachedTokens(one, ""), 0);
  EXPECT_EQ(CachedTokens(StubOf("one"), ""), kPages * 64) << "whatever the connection";
  EXPECT_EQ(CachedTokens(two, ""), 0);
}

TEST_F(CertificatesTest, WithoutTokensACertificateAbortsItsOwnRequestsOnly) {
  const Stub one = StubOf("one");
  const auto stream = Hold(one, "");
  EXPECT_EQ(Abort(StubOf("two"), ""), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Abort(StubOf("", "otherName:1.2.3.4;UTF8:nobody"), ""), grpc::StatusCode::NOT_FOUND)
      << "a certificate that names nobody";
  EXPECT_EQ(Abort(StubOf("one"), ""), grpc::StatusCode::OK);
  runner_->Resume();
  EXPECT_EQ(stream->ReadToEnd(), v1::FINISH_REASON_ABORTED);
}

class AddressesTest : public TenantsTest {
 protected:
  AddressesTest() : TenantsTest([](const CredentialFiles&, ServerOptions*) {}) {}
};

TEST_F(AddressesTest, CallersByAddressShareCachedPrompts) {
  EXPECT_EQ(CachedTokens(stub_, ""), 0);
  const std::string port = absl::StrCat(":", server_->grpc_port());
  const auto local =
      v1::Generation::NewStub(grpc::CreateChannel("localhost" + port, grpc::InsecureChannelCredentials()));
  EXPECT_EQ(CachedTokens(local, ""), kPages * 64);
}

}  // namespace
}  // namespace spotlight::server
