#include "server/profile_page.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "server/security/sha256.h"
#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

TokenEntry Token(const std::string& token, bool may_admin) {
  TokenEntry entry;
  entry.caller.name = token;
  entry.caller.may_admin = may_admin;
  entry.caller.may_generate = !may_admin;
  entry.digests = {Sha256(token)};
  return entry;
}

absl::StatusCode CodeOf(const ProfileCall& call, const Authorizer& authorizer, std::string* message = nullptr) {
  std::string caller;
  const auto trace = Profile(call, authorizer, nullptr, &caller);
  if (message != nullptr) *message = std::string(trace.status().message());
  return trace.status().code();
}

ProfileCall With(const std::string& token) {
  ProfileCall call;
  call.authorization = {"Bearer " + token};
  return call;
}

TEST(ProfilePageTest, OnlyAnAdministratorsTokenOpensIt) {
  Authorizer authorizer;
  authorizer.SetTokens({Token("boss", true), Token("team", false)});
  EXPECT_EQ(CodeOf({}, authorizer), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeOf(With("other"), authorizer), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeOf(With("team"), authorizer), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf(With("boss"), authorizer), absl::StatusCode::kUnavailable);  // there is no engine here
}

TEST(ProfilePageTest, ABadParameterIsOneClearError) {
  const Authorizer authorizer;
  std::string message;
  for (const char* steps : {"0", "-1", "1001", "many", "", "1.5"}) {
    ProfileCall call;
    call.steps = {steps};
    EXPECT_EQ(CodeOf(call, authorizer, &message), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(message, absl::StrCat("steps: must be a whole number of 1 to 1000, once, got \"", steps, "\""));
  }
  ProfileCall twice;
  twice.seconds = {"1", "2"};
  EXPECT_EQ(CodeOf(twice, authorizer, &message), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(message, "seconds: must be a whole number of 1 to 300, once, got \"1\"");
}

TEST(ProfilePageTest, OffTheLoopbackItNeedsTokensAndTheirProtection) {
  SecurityOptions security;
  EXPECT_TRUE(CheckProfilePort(security, true).ok());
  EXPECT_EQ(CheckProfilePort(security, false).message(),
            "profiles need --token-file where --http is not a loopback address");
  security.token_file = "tokens.json";
  EXPECT_TRUE(CheckProfilePort(security, false).ok());  // --allow-insecure: gRPC carries the tokens in the open, too
  security.tls.certificate_file = "server.crt";
  EXPECT_EQ(CheckProfilePort(security, false).code(), absl::StatusCode::kPermissionDenied);
  security.http_tls = true;
  EXPECT_TRUE(CheckProfilePort(security, false).ok());
}

// An engine thread that does nothing but passes.
class ProfileServerTest : public RunningServer {
 protected:
  class Recorder : public engine::StepRecorder {
    absl::Status Start() override { return absl::OkStatus(); }
    absl::StatusOr<engine::RenderRecording> Stop() override {
      return engine::RenderRecording(
          []() -> absl::StatusOr<std::string> { return std::string("{\"traceEvents\":[]}"); });
    }
  };
  httplib::Result Get(const char* path) {
    httplib::Client client("127.0.0.1", server_->http_port());
    return client.Get(path);
  }
  engine::StepProfiler profiler_{std::make_unique<Recorder>()};
};

TEST_F(ProfileServerTest, ErrorsAreHttpStatuses) {
  EXPECT_EQ(Get("/debug/profile")->status, 503);  // loading
  server_->Serve(&engine_, "2.11.0", absl::Seconds(1), &profiler_);
  const auto bad = Get("/debug/profile?steps=0");
  EXPECT_EQ(bad->status, 400);
  EXPECT_EQ(bad->body, "steps: must be a whole number of 1 to 1000, once, got \"0\"\n");
  EXPECT_EQ(Get("/debug/profile?seconds=1")->status, 504);  // nothing runs
  httplib::Client client("127.0.0.1", server_->http_port());
  EXPECT_EQ(client.Head("/debug/profile")->status, 405);
  EXPECT_EQ(TakeRecord().method, std::string("/debug/profile"));
}

TEST_F(ProfileServerTest, TheTraceIsTheAnswer) {
  server_->Serve(&engine_, "2.11.0", absl::Seconds(1), &profiler_);
  std::atomic<bool> done{false};
  std::thread passes([&] {
    while (!done) {
      profiler_.BeforePass();
      profiler_.AfterPass(true);
      std::this_thread::yield();
    }
  });
  const auto result = Get("/debug/profile?steps=3");
  done = true;
  passes.join();
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_EQ(result->body, "{\"traceEvents\":[]}");
  EXPECT_EQ(result->get_header_value("Content-Type"), "application/json");
}

}  // namespace
}  // namespace spotlight::server
