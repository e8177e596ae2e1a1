#include "server/security/authorizer.h"

#include <vector>

#include "absl/strings/match.h"
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
  EXPECT_EQ(refused.message(), "caller_rate: the limit of this token is 60 requests a minute, 2 at once");
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
  EXPECT_EQ(refused.message(), "caller_concurrency: 2 requests of this token are in progress, its limit is 2");
  EXPECT_TRUE(engine::RetryDelay(refused).has_value());
  first.place = nullptr;
  EXPECT_TRUE(Call("Bearer alpha").status.ok());
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

}  // namespace
}  // namespace spotlight::server
