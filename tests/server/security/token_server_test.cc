// Tokens over a real connection: who is let in, what the others are told, and that no token is told to anyone.
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "server/request_log.h"
#include "tests/server/security/secured_server.h"
#include "tests/server/unread_call.h"

namespace spotlight::server {
namespace {

constexpr char kTeam[] = "team-token-0123456789";
constexpr char kOps[] = "ops-token-0123456789";
constexpr char kLimited[] = "limited-token-0123456789";
constexpr char kWide[] = "wide-token-0123456789";
constexpr char kAlone[] = "alone-token-0123456789";

std::string Entries() {
  return absl::StrCat(TokenEntryJson("team", kTeam, "\"generate\""), ",", TokenEntryJson("ops", kOps, "\"admin\""), ",",
                      TokenEntryJson("limited", kLimited, "\"generate\"",
                                     R"(, "requests_per_minute": 30, "burst": 2, "max_concurrent": 1)"),
                      ",", TokenEntryJson("wide", kWide, "\"generate\"", R"(, "max_concurrent": 4, "max_priority": 3)"),
                      ",", TokenEntryJson("alone", kAlone, "\"generate\"", R"(, "max_concurrent": 1)"));
}

SecurityOptions Options(const CredentialFiles& files) {
  SecurityOptions security;
  security.token_file = files.folder.Write("tokens.json", TokensJson(Entries()));
  return security;
}

class TokenServerTest : public SecuredServer {
 protected:
  TokenServerTest() : SecuredServer(Options) { Serve(); }

  static void Authorize(grpc::ClientContext* context, const std::string& token) {
    if (!token.empty()) context->AddMetadata("authorization", "Bearer " + token);
  }
  grpc::Status GetLoads(const std::string& token) {
    grpc::ClientContext context;
    Authorize(&context, token);
    v1::GetLoadsResponse response;
    return stub_->GetLoads(&context, {}, &response);
  }
  grpc::Status Detokenize(const std::string& token) {
    grpc::ClientContext context;
    Authorize(&context, token);
    v1::DetokenizeResponse response;
    return stub_->Detokenize(&context, Ids(10), &response);
  }
  static v1::DetokenizeRequest Ids(int count) {
    v1::DetokenizeRequest request;
    for (int i = 0; i < count; ++i) request.add_token_ids('a');
    return request;
  }
  // A generation that the engine ends at once.
  grpc::Status Generate(const std::string& token, int32_t num_samples = 1, int32_t priority = 0) {
    grpc::ClientContext context;
    Authorize(&context, token);
    const std::string id = absl::StrCat("request-", ++num_requests_);
    v1::GenerateRequest request = Request(id);
    request.mutable_sampling()->set_n(num_samples);
    request.set_priority(priority);
    auto reader = stub_->GenerateStream(&context, request);
    std::thread engine([&] {
      // Refused requests never come.
      while (!engine_.Finish(id, engine_.Stopped(5, 1)) && !refused_) std::this_thread::yield();
    });
    v1::GenerateStreamResponse message;
    while (reader->Read(&message)) {
    }
    const grpc::Status status = reader->Finish();
    refused_ = true;
    engine.join();
    refused_ = false;
    return status;
  }

 private:
  int num_requests_ = 0;
  std::atomic<bool> refused_{false};
};

TEST_F(TokenServerTest, EveryMethodButHealthNeedsAToken) {
  const auto check = [this](const std::string& name, const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << name << ": " << status.error_message();
    EXPECT_EQ(TakeRecord().method, name);
  };
  const auto call = [&](const std::string& name, const auto& method) {
    grpc::ClientContext context;
    check(name, method(&context));
  };
  call("Generate", [this](auto* context) {
    v1::GenerateResponse response;
    return stub_->Generate(context, Request("a"), &response);
  });
  call("GenerateStream", [this](auto* context) { return stub_->GenerateStream(context, Request("a"))->Finish(); });
  call("Tokenize", [this](auto* context) {
    v1::TokenizeResponse response;
    return stub_->Tokenize(context, {}, &response);
  });
  call("Detokenize", [this](auto* context) {
    v1::DetokenizeResponse response;
    return stub_->Detokenize(context, {}, &response);
  });
  call("Abort", [this](auto* context) {
    v1::AbortResponse response;
    return stub_->Abort(context, {}, &response);
  });
  call("GetModelInfo", [this](auto* context) {
    v1::GetModelInfoResponse response;
    return stub_->GetModelInfo(context, {}, &response);
  });
  call("GetServerInfo", [this](auto* context) {
    v1::GetServerInfoResponse response;
    return stub_->GetServerInfo(context, {}, &response);
  });
  call("GetLoads", [this](auto* context) {
    v1::GetLoadsResponse response;
    return stub_->GetLoads(context, {}, &response);
  });

  grpc::ClientContext context;
  grpc::health::v1::HealthCheckResponse response;
  EXPECT_TRUE(health_->Check(&context, {}, &response).ok()) << "probes carry no token";
  EXPECT_TRUE(MetricBecomes(R"(spotlight_requests_rejected_total{model_name="fake",reason="auth"})", 8));
  httplib::Client http("127.0.0.1", server_->http_port());
  EXPECT_EQ(http.Get("/debug/profile")->status, 401);
  EXPECT_TRUE(MetricBecomes(R"(spotlight_requests_rejected_total{model_name="fake",reason="auth"})", 9));
}

TEST_F(TokenServerTest, ScopesDecideWhatATokenMay) {
  EXPECT_TRUE(GetLoads(kTeam).ok());
  EXPECT_TRUE(GetLoads(kOps).ok());
  EXPECT_TRUE(Generate(kTeam).ok());
  EXPECT_EQ(Generate(kOps).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  v1::AbortRequest abort;
  abort.set_request_id("nobody's");
  for (const char* token : {kTeam, kOps}) {
    grpc::ClientContext context;
    Authorize(&context, token);
    v1::AbortResponse response;
    EXPECT_EQ(stub_->Abort(&context, abort, &response).error_code(), grpc::StatusCode::NOT_FOUND) << token;
  }
}

TEST_F(TokenServerTest, TheRateLimitTellsWhenToTryAgain) {
  EXPECT_TRUE(Generate(kLimited).ok());
  EXPECT_TRUE(Generate(kLimited).ok());
  const grpc::Status refused = Generate(kLimited);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "caller_rate");
  const google::protobuf::Duration delay = DetailOf<google::rpc::RetryInfo>(refused).retry_delay();
  EXPECT_GT(delay.seconds() * 1000 + delay.nanos() / 1000000, 1000) << "one each two seconds";
  EXPECT_LE(delay.seconds() * 1000 + delay.nanos() / 1000000, 2000);
  EXPECT_TRUE(MetricBecomes(R"(spotlight_requests_rejected_total{model_name="fake",reason="caller_rate"})", 1));
  grpc::ClientContext context;
  Authorize(&context, kLimited);
  v1::TokenizeResponse response;
  EXPECT_EQ(stub_->Tokenize(&context, {}, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(MetricBecomes(R"(spotlight_requests_rejected_total{model_name="fake",reason="caller_rate"})", 2));
}

TEST_F(TokenServerTest, TheConcurrencyLimitHoldsUntilTheStreamEnds) {
  grpc::ClientContext context;
  Authorize(&context, kLimited);
  auto reader = stub_->GenerateStream(&context, Request("long"));
  EXPECT_EQ(engine_.TakeRequest().request_id, "long");
  const grpc::Status refused = Generate(kLimited);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "caller_concurrency");
  EXPECT_TRUE(Generate(kTeam).ok()) << "another caller's streams are its own";
  engine_.Finish("long", engine_.Stopped(5, 1));
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(Generate(kLimited).ok()) << "the place is free before the client knows of the end";
}

TEST_F(TokenServerTest, SamplesCountAgainstTheLimits) {
  const grpc::Status never = Generate(kWide, 5);
  EXPECT_EQ(never.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto violation = DetailOf<google::rpc::BadRequest>(never).field_violations(0);
  EXPECT_EQ(violation.field(), "sampling.n");
  EXPECT_EQ(violation.description(), "must be at most 4, the max_concurrent of this caller, got 5");
  grpc::ClientContext context;
  Authorize(&context, kWide);
  v1::GenerateRequest request = Request("wide");
  request.mutable_sampling()->set_n(3);
  auto reader = stub_->GenerateStream(&context, request);
  EXPECT_EQ(engine_.TakeRequest().sampling.n, 3);
  const grpc::Status refused = Generate(kWide, 2);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "caller_concurrency");
  EXPECT_TRUE(Generate(kWide).ok()) << "a refused request holds nothing";
  engine_.Finish("wide", engine_.Stopped(5, 1));
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(Generate(kWide, 4).ok()) << "all its samples' places are free before the client knows of the end";
}

TEST_F(TokenServerTest, ThePriorityIsBoundedByTheToken) {
  EXPECT_TRUE(Generate(kWide, 1, 3).ok());
  const grpc::Status denied = Generate(kWide, 1, 4);
  EXPECT_EQ(denied.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(denied.error_message(), "priority: the token of wide allows at most 3, got 4");
  EXPECT_EQ(Generate(kTeam, 1, 1).error_message(), "priority: the token of team allows at most 0, got 1");
}

TEST_F(TokenServerTest, AndUntilALargeAnswerIsTaken) {
  const auto deaf = ConnectWithoutWindow(server_->grpc_port());
  UnreadCall call(deaf, "Generate", Request("long"), kAlone);
  engine_.TakeRequest();
  engine_.Send("long", Delta(std::string(100'000, 'x')));
  engine_.Finish("long", engine_.Stopped(5, 1));
  call.WaitForAnswer();
  const grpc::Status refused = Generate(kAlone);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "caller_concurrency");
  EXPECT_TRUE(call.Read().ok());
  TakeRecord();  // of the refused call
  TakeRecord();
  EXPECT_TRUE(Generate(kAlone).ok());
}

TEST_F(TokenServerTest, AClientThatReadsNoneHoldsNoMoreThanSomeSmallAnswers) {
  const auto deaf = ConnectWithoutWindow(server_->grpc_port());
  std::vector<std::unique_ptr<UnreadCall>> calls;
  const auto leave_unread = [&] {
    calls.push_back(std::make_unique<UnreadCall>(deaf, "Detokenize", Ids(10), kAlone));
    calls.back()->WaitForAnswer();
  };
  for (int i = 0; i < 10; ++i) leave_unread();
  EXPECT_TRUE(Detokenize(kAlone).ok()) << "its place is free, as a small answer has as good as been taken";
  while (calls.size() < 64) leave_unread();
  const grpc::Status refused = Detokenize(kAlone);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "caller_concurrency");
  calls.clear();
  for (int i = 0; i < 66; ++i) TakeRecord();
  EXPECT_TRUE(Detokenize(kAlone).ok());
}

TEST_F(TokenServerTest, AReplacedFileRevokesAndADeletedOneDoesNot) {
  files_.folder.Write("tokens.json", TokensJson(TokenEntryJson("team", "another-token", "\"generate\"")));
  ASSERT_TRUE(ReloadsBecome("tokens", "taken", 1));
  EXPECT_EQ(GetLoads(kTeam).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(GetLoads("another-token").ok());
  files_.folder.Remove("tokens.json");
  ASSERT_TRUE(ReloadsBecome("tokens", "refused", 1));
  EXPECT_TRUE(GetLoads("another-token").ok());
  EXPECT_EQ(GetLoads("").error_code(), grpc::StatusCode::UNAUTHENTICATED) << "no file is not no tokens";
  files_.folder.Write("tokens.json", "{\"tokens\": [");
  ASSERT_TRUE(ReloadsBecome("tokens", "refused", 2));
  EXPECT_TRUE(GetLoads("another-token").ok());
  files_.folder.Write("tokens.json", TokensJson(Entries()));
  ASSERT_TRUE(ReloadsBecome("tokens", "taken", 2));
  EXPECT_TRUE(GetLoads(kTeam).ok());
}

TEST_F(TokenServerTest, RecordsNameTheCallerAndNothingQuotesAToken) {
  std::vector<grpc::Status> statuses = {GetLoads(kTeam), GetLoads("unknown-token-0123456789"), GetLoads(""),
                                        Generate(kOps), Generate(kLimited)};
  files_.folder.Write("tokens.json", absl::StrCat("{\"tokens\": [{\"name\": \"x\", \"token\": \"", kTeam, "\"}]}"));
  ASSERT_TRUE(ReloadsBecome("tokens", "refused", 1));
  std::string told;
  for (const grpc::Status& status : statuses) absl::StrAppend(&told, status.error_message(), status.error_details());
  std::multiset<std::string> callers;
  for (size_t i = 0; i < statuses.size(); ++i) {
    const CallRecord record = TakeRecord();
    callers.insert(record.caller);
    const std::string line = RequestLogLine(record, 1.5);
    EXPECT_TRUE(absl::StrContains(line, absl::StrCat("\"caller\":\"", record.caller, "\""))) << line;
    absl::StrAppend(&told, line);
  }
  EXPECT_EQ(callers, (std::multiset<std::string>{"team", "ipv4:127.0.0.1", "ipv4:127.0.0.1", "ops", "limited"}));
  server_->Shutdown();
  absl::StrAppend(&told, log_.text());
  EXPECT_TRUE(absl::StrContains(told, "only its sha256")) << told;
  EXPECT_FALSE(absl::StrContains(told, "0123456789")) << told;
}

}  // namespace
}  // namespace spotlight::server
