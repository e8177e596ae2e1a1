#include "server/security/authorizer.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_clock.h"

namespace spotlight::server {
namespace {

TokenEntry Entry(const std::string& name, const std::string& token, CallerLimits limits = {}) {
  TokenEntry entry;
  entry.caller.name = name;
  entry.caller.may_admin = false;
  entry.digests = {Sha256(token)};
  entry.limits = limits;
  return entry;
}

class AuthorizerTest : public ::testing::Test {
 protected:
  Authorization Call(absl::string_view authorization, Scope scope = Scope::kGenerate,
                     CallCost cost = CallCost::kRequest) {
    return authorizer_.Authorize({{authorization}, "ipv4:10.0.0.7"}, scope, cost);
  }

  absl::Status Samples(const Authorization& call, int32_t num_samples) {
    EXPECT_TRUE(call.status.ok()) << call.status;
    return authorizer_.AuthorizeRequest(call, {0, num_samples});
  }

  engine::FakeClock clock_;
  Authorizer authorizer_{&clock_};
};

TEST_F(AuthorizerTest, WithoutTokensEverybodyMayDoEverythingUnderThePeersName) {
  for (const Scope scope : {Scope::kGenerate, Scope::kAdmin, Scope::kAny}) {
    const Authorization call = authorizer_.Authorize({{}, "ipv4:10.0.0.7"}, scope, CallCost::kRequest);
    EXPECT_TRUE(call.status.ok());
    EXPECT_EQ(call.caller.name, "ipv4:10.0.0.7");
  }
}

TEST_F(AuthorizerTest, AClientCertificateAloneDoesNotMakeAnAdmin) {
  const CallCredentials credentials = {{}, "x509:alice", /*has_certificate=*/true};
  const Authorization call = authorizer_.Authorize(credentials, Scope::kAny, CallCost::kFree);
  EXPECT_TRUE(call.status.ok());
  EXPECT_TRUE(call.caller.is_identified);
  EXPECT_TRUE(call.caller.may_generate);
  EXPECT_FALSE(call.caller.may_admin);
  EXPECT_TRUE(absl::IsPermissionDenied(authorizer_.Authorize(credentials, Scope::kAdmin, CallCost::kFree).status));
  TokenEntry ops = Entry("ops", "omega");
  ops.caller.may_admin = true;
  authorizer_.SetTokens({ops});
  EXPECT_TRUE(authorizer_.Authorize({{"Bearer omega"}, "x509:alice", true}, Scope::kAdmin, CallCost::kFree).status.ok())
      << "its token does";
}

TEST_F(AuthorizerTest, ACallNeedsExactlyOneKnownToken) {
  authorizer_.SetTokens({Entry("a", "alpha"), Entry("b", "beta")});
  EXPECT_EQ(Call("Bearer alpha").caller.name, "a");
  EXPECT_EQ(Call("bearer  beta ").caller.name, "b");
  const std::vector<std::vector<absl::string_view>> wrong = {
      {},          {"Bearer gamma"}, {"alpha"},         {"Basic alpha"},
      {"Bearer "}, {"Bearer Alpha"}, {"Bearer alpha0"}, {"Bearer alpha", "Bearer alpha"}};
  for (const auto& values : wrong) {
    const Authorization call = authorizer_.Authorize({values, "peer"}, Scope::kAny, CallCost::kFree);
    EXPECT_TRUE(absl::IsUnauthenticated(call.status)) << call.status;
    EXPECT_EQ(call.caller.name, "peer");
    EXPECT_FALSE(call.caller.Allows(Scope::kAny));
    for (const absl::string_view value : values) {
      EXPECT_FALSE(value.size() > 7 && absl::StrContains(call.status.message(), value.substr(7))) << call.status;
    }
  }
}

TEST_F(AuthorizerTest, AScopeThatTheTokenLacksIsDeniedByName) {
  TokenEntry admin = Entry("ops", "omega");
  admin.caller.may_generate = false;
  admin.caller.may_admin = true;
  authorizer_.SetTokens({Entry("team", "alpha"), admin});
  EXPECT_TRUE(absl::IsPermissionDenied(Call("Bearer alpha", Scope::kAdmin).status));
  EXPECT_EQ(Call("Bearer omega").status.message(), "the token of ops lacks the scope generate");
  EXPECT_TRUE(Call("Bearer omega", Scope::kAdmin).status.ok());
  EXPECT_TRUE(Call("Bearer alpha", Scope::kAny).status.ok());
  EXPECT_TRUE(Call("Bearer omega", Scope::kAny).status.ok());
}

TEST_F(AuthorizerTest, TheRateIsOneOfALeakyBucket) {
  authorizer_.SetTokens({Entry("team", "alpha", {60, 2, 0}), Entry("other", "beta", {60, 2, 0})});
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  const absl::Status refused = Call("Bearer alpha").status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(refused.message(), "caller_rate: the limit of this caller is 60 requests a minute, 2 at once");
  EXPECT_EQ(engine::RetryDelay(refused), absl::Seconds(1));
  EXPECT_TRUE(Call("Bearer beta").status.ok()) << "another caller's is its own";
  EXPECT_TRUE(Call("Bearer alpha", Scope::kAny, CallCost::kFree).status.ok()) << "questions are free";
  clock_.Advance(absl::Milliseconds(900));
  EXPECT_EQ(engine::RetryDelay(Call("Bearer alpha").status), absl::Milliseconds(100)) << "a refused call costs nothing";
  clock_.Advance(absl::Milliseconds(100));
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  EXPECT_FALSE(Call("Bearer alpha").status.ok());
  clock_.Advance(absl::Hours(1));
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  EXPECT_FALSE(Call("Bearer alpha").status.ok()) << "what was not used is not saved beyond the burst";
}

TEST_F(AuthorizerTest, AConcurrentPlaceIsFreeOnceItsHolderIsGone) {
  authorizer_.SetTokens({Entry("team", "alpha", {0, 0, 2})});
  Authorization first = Call("Bearer alpha");
  const Authorization second = Call("Bearer alpha");
  ASSERT_TRUE(second.status.ok());
  const absl::Status refused = Call("Bearer alpha").status;
  EXPECT_EQ(refused.message(), "caller_concurrency: 2 requests of this caller are in progress, its limit is 2");
  EXPECT_TRUE(engine::RetryDelay(refused).has_value());
  first.place = nullptr;
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
}

TEST_F(AuthorizerTest, EachSampleTakesAConcurrentPlace) {
  authorizer_.SetTokens({Entry("team", "alpha", {0, 0, 4})});
  const Authorization single = Call("Bearer alpha");
  Authorization wide = Call("Bearer alpha");
  const absl::Status refused = Samples(wide, 4);
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(
      refused.message(),
      "caller_concurrency: 1 requests of this caller are in progress, its limit is 4, of which sampling.n asks for "
      "4");
  EXPECT_TRUE(engine::RetryDelay(refused).has_value());
  EXPECT_TRUE(Samples(wide, 3).ok());
  EXPECT_EQ(Call("Bearer alpha").status.message(),
            "caller_concurrency: 4 requests of this caller are in progress, its limit is 4");
  const CallerQuota::Place copy = wide.place;
  wide.place = nullptr;
  EXPECT_FALSE(Call("Bearer alpha").status.ok()) << "until the last copy is gone";
}

TEST_F(AuthorizerTest, TheEndOfARequestFreesThePlacesOfAllItsSamples) {
  authorizer_.SetTokens({Entry("team", "alpha", {0, 0, 4})});
  for (int i = 0; i < 3; ++i) {
    const Authorization wide = Call("Bearer alpha");
    ASSERT_TRUE(Samples(wide, 4).ok());
    EXPECT_FALSE(Call("Bearer alpha").status.ok());
  }
  EXPECT_TRUE(Samples(Call("Bearer alpha"), 4).ok());
}

TEST_F(AuthorizerTest, EachSampleCountsAgainstTheRate) {
  authorizer_.SetTokens({Entry("team", "alpha", {60, 8, 0})});
  EXPECT_TRUE(Samples(Call("Bearer alpha"), 6).ok());
  const absl::Status refused = Samples(Call("Bearer alpha"), 4);
  EXPECT_TRUE(absl::StartsWith(refused.message(), "caller_rate: the limit of this caller is 60")) << refused;
  EXPECT_EQ(engine::RetryDelay(refused), absl::Seconds(2)) << "two are left of the four";
  EXPECT_TRUE(Samples(Call("Bearer alpha"), 2).ok()) << "a refused request costs nothing";
  clock_.Advance(absl::Milliseconds(3999));
  EXPECT_FALSE(Samples(Call("Bearer alpha"), 4).ok());
  clock_.Advance(absl::Milliseconds(1));
  EXPECT_TRUE(Samples(Call("Bearer alpha"), 4).ok());
}

TEST_F(AuthorizerTest, MoreSamplesThanALimitEverAllowsAreABadRequest) {
  authorizer_.SetTokens({Entry("narrow", "alpha", {0, 0, 2}), Entry("slow", "beta", {60, 3, 10}), Entry("free", "g")});
  const absl::Status narrow = Samples(Call("Bearer alpha"), 3);
  EXPECT_TRUE(absl::IsInvalidArgument(narrow));
  EXPECT_EQ(narrow.message(), "sampling.n: must be at most 2, the max_concurrent of this caller, got 3");
  EXPECT_EQ(Samples(Call("Bearer beta"), 4).message(),
            "sampling.n: must be at most 3, the burst of this caller, got 4");
  EXPECT_TRUE(Samples(Call("Bearer g"), 64).ok());
  EXPECT_TRUE(Samples(Call("Bearer alpha"), 1 << 30).ok()) << "the engine says what n may be at all";
}

TEST_F(AuthorizerTest, APriorityAboveTheTokensIsDenied) {
  TokenEntry urgent = Entry("urgent", "beta");
  urgent.caller.max_priority = 10;
  TokenEntry batch = Entry("batch", "gamma");
  batch.caller.max_priority = -5;
  EXPECT_TRUE(authorizer_.AuthorizeRequest(Call("Bearer beta"), {100, 1}).ok()) << "without tokens anything goes";
  authorizer_.SetTokens({urgent, batch});
  EXPECT_TRUE(authorizer_.AuthorizeRequest(Call("Bearer beta"), {10, 1}).ok());
  const absl::Status denied = authorizer_.AuthorizeRequest(Call("Bearer beta"), {11, 1});
  EXPECT_TRUE(absl::IsPermissionDenied(denied));
  EXPECT_EQ(denied.message(), "priority: the token of urgent allows at most 10, got 11");
  EXPECT_FALSE(authorizer_.AuthorizeRequest(Call("Bearer gamma"), {0, 1}).ok());
  EXPECT_TRUE(authorizer_.AuthorizeRequest(Call("Bearer gamma"), {-5, 1}).ok());
}

TEST_F(AuthorizerTest, AReloadKeepsWhatWasCounted) {
  authorizer_.SetTokens({Entry("team", "alpha", {60, 1, 1})});
  const Authorization running = Call("Bearer alpha");
  ASSERT_TRUE(running.status.ok());
  authorizer_.SetTokens({Entry("team", "next", {60, 1, 2})});
  EXPECT_TRUE(absl::IsUnauthenticated(Call("Bearer alpha").status)) << "the old token is gone at once";
  EXPECT_TRUE(absl::StartsWith(Call("Bearer next").status.message(), "caller_rate")) << "the minute goes on";
  clock_.Advance(absl::Seconds(1));
  const Authorization second = Call("Bearer next");
  EXPECT_TRUE(second.status.ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(absl::StartsWith(Call("Bearer next").status.message(), "caller_concurrency: 2"));
}

TEST_F(AuthorizerTest, ANameThatWasAwayForAReloadComesBackWithWhatItHolds) {
  const std::vector<TokenEntry> with = {Entry("team", "alpha", {0, 0, 1}), Entry("other", "beta")};
  const std::vector<TokenEntry> without = {Entry("other", "beta")};
  authorizer_.SetTokens(with);
  Authorization running = Call("Bearer alpha");
  for (int i = 0; i < 3; ++i) {
    authorizer_.SetTokens(without);
    EXPECT_TRUE(absl::IsUnauthenticated(Call("Bearer alpha").status));
  }
  authorizer_.SetTokens(with);
  EXPECT_TRUE(absl::StartsWith(Call("Bearer alpha").status.message(), "caller_concurrency: 1"));
  running.place = nullptr;
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
}

TEST_F(AuthorizerTest, ANameThatWasAwayForAReloadComesBackWithItsRate) {
  authorizer_.SetTokens({Entry("team", "alpha", {1, 1, 0})});
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
  authorizer_.SetTokens({Entry("other", "beta")});
  authorizer_.SetTokens({Entry("team", "alpha", {1, 1, 0})});
  EXPECT_TRUE(absl::StartsWith(Call("Bearer alpha").status.message(), "caller_rate"));
}

TEST_F(AuthorizerTest, CallersWithoutALimitOfTheirOwnHaveTheCommonOne) {
  authorizer_.SetMaxConcurrent(2);
  const auto from = [this](const std::string& peer) {
    return authorizer_.Authorize({{}, peer}, Scope::kGenerate, CallCost::kRequest);
  };
  {
    const Authorization first = from("ipv4:10.0.0.7"), second = from("ipv4:10.0.0.7");
    EXPECT_TRUE(first.status.ok() && second.status.ok());
    EXPECT_EQ(from("ipv4:10.0.0.7").status.message(),
              "caller_concurrency: 2 requests of this caller are in progress, its limit is 2");
    EXPECT_TRUE(from("ipv4:10.0.0.8").status.ok());
    EXPECT_TRUE(authorizer_.Authorize({{}, "ipv4:10.0.0.7"}, Scope::kAny, CallCost::kFree).status.ok());
    // Of thousands that came once none is kept, and of those that are here nothing is forgotten.
    for (int i = 0; i < 5000; ++i) EXPECT_TRUE(from(absl::StrCat("ipv4:10.1.0.", i)).status.ok());
    EXPECT_FALSE(from("ipv4:10.0.0.7").status.ok());
  }
  EXPECT_TRUE(from("ipv4:10.0.0.7").status.ok());

  CallerLimits own;
  own.max_concurrent = 1;
  authorizer_.SetTokens({Entry("alpha", "a"), Entry("beta", "b", own)});
  const Authorization first = Call("Bearer a"), second = Call("Bearer a"), beta = Call("Bearer b");
  EXPECT_TRUE(first.status.ok() && second.status.ok() && beta.status.ok());
  EXPECT_FALSE(Call("Bearer a").status.ok());
  EXPECT_FALSE(Call("Bearer b").status.ok());
}

}  // namespace
}  // namespace spotlight::server
