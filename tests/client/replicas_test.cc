// Calls to several servers behind one target, as client/service_config.json has them: taken in turns, sent to another
// where one cannot serve them, and never a second time once a message has come.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "client/generate_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/spotlight_runner.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::client {
namespace {

using ::grpc::health::v1::HealthCheckResponse;
using ::spotlight::testing::FakeGenerationServer;
using ::spotlight::testing::LastMessage;
using ::spotlight::testing::RunSpotlight;
using ::spotlight::testing::TextMessage;
using ::testing::HasSubstr;

const grpc::Status kDraining(grpc::StatusCode::UNAVAILABLE, "draining");

class ReplicasTest : public ::testing::Test {
 protected:
  std::string Both() const { return absl::StrCat("ipv4:", first_.address(), ",", second_.address()); }

  static absl::Status Stream(GenerateClient* client, const v1::GenerateRequest& request, int* messages) {
    return client->GenerateStream(request, {}, [&](const v1::GenerateStreamResponse&) { return ++*messages > 0; });
  }
  static size_t NumCalls(const FakeGenerationServer& server) { return server.generate_requests().size(); }

  // Unary calls until `done`, within a bound that only a failure reaches.
  template <class Done>
  static void CallUntil(GenerateClient* client, Done done) {
    for (int i = 0; i < 2000 && !done(); ++i) {
      EXPECT_TRUE(client->Generate({}, {}).ok());
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_TRUE(done());
  }

  FakeGenerationServer first_, second_;
};

TEST_F(ReplicasTest, CallsTakeThemInTurns) {
  GenerateClient client(CreateChannel(Both()));
  CallUntil(&client, [&] { return NumCalls(first_) > 0 && NumCalls(second_) > 0; });
  const size_t first = NumCalls(first_), second = NumCalls(second_);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(client.Generate({}, {}).ok());
  EXPECT_EQ(NumCalls(first_), first + 5);
  EXPECT_EQ(NumCalls(second_), second + 5);
}

TEST_F(ReplicasTest, OneThatDoesNotServeGetsNoneUntilItDoes) {
  first_.set_health(HealthCheckResponse::NOT_SERVING);
  GenerateClient client(CreateChannel(Both()));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(client.Generate({}, {}).ok());
  EXPECT_EQ(NumCalls(first_), 0u);
  first_.set_health(HealthCheckResponse::SERVING);
  CallUntil(&client, [&] { return NumCalls(first_) > 0; });
  second_.set_health(HealthCheckResponse::NOT_SERVING);
  size_t before = 0;
  CallUntil(&client, [&] { return std::exchange(before, NumCalls(second_)) == NumCalls(second_); });
}

TEST_F(ReplicasTest, ACallThatEndsUnavailableBeforeItsFirstMessageIsSentAgain) {
  first_.AddStream({{}, kDraining});
  first_.AddStream({{}, kDraining});
  first_.AddStream({{TextMessage("a", 1), LastMessage(v1::FINISH_REASON_STOP)}, {}});
  GenerateClient client(CreateChannel("ipv4:" + first_.address()));
  int messages = 0;
  EXPECT_TRUE(Stream(&client, {}, &messages).ok());
  EXPECT_EQ(messages, 2);
  EXPECT_EQ(NumCalls(first_), 3u);
}

TEST_F(ReplicasTest, SoIsAPromptOfMegabytes) {
  first_.AddStream({{}, kDraining});
  first_.AddStream({{TextMessage("a", 1)}, {}});
  GenerateClient client(CreateChannel("ipv4:" + first_.address()));
  v1::GenerateRequest request;
  request.set_text(std::string(5 << 20, 'x'));
  int messages = 0;
  EXPECT_TRUE(Stream(&client, request, &messages).ok());
  ASSERT_EQ(NumCalls(first_), 2u);
  EXPECT_EQ(first_.generate_requests()[1].text().size(), size_t{5} << 20);
}

TEST_F(ReplicasTest, ACallThatHasBroughtAMessageIsNot) {
  first_.AddStream({{TextMessage("a", 1)}, kDraining});
  first_.AddStream({{TextMessage("a", 1)}, {}});
  GenerateClient client(CreateChannel("ipv4:" + first_.address()));
  int messages = 0;
  EXPECT_EQ(Stream(&client, {}, &messages).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(messages, 1);
  EXPECT_EQ(NumCalls(first_), 1u);
}

TEST_F(ReplicasTest, NeitherIsOneThatWasRefused) {
  first_.AddStream({{}, grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue_requests")});
  first_.AddStream({{TextMessage("a", 1)}, {}});
  GenerateClient client(CreateChannel("ipv4:" + first_.address()));
  int messages = 0;
  EXPECT_EQ(Stream(&client, {}, &messages).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(NumCalls(first_), 1u);
}

TEST_F(ReplicasTest, OneServerIsAskedOnce) {
  first_.set_health(HealthCheckResponse::NOT_SERVING);  // and whoever names it may ask it
  first_.AddStream({{}, kDraining});
  first_.AddStream({{TextMessage("a", 1)}, {}});
  GenerateClient client(CreateChannel(first_.address()));
  int messages = 0;
  EXPECT_EQ(Stream(&client, {}, &messages).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NumCalls(first_), 1u);
}

TEST_F(ReplicasTest, TheCommandLineTakesTargets) {
  first_.set_health(HealthCheckResponse::NOT_SERVING);
  second_.AddStream({{TextMessage("from the second", 1), LastMessage(v1::FINISH_REASON_STOP)}, {}});
  const auto done = RunSpotlight(first_.address(), {"generate", "--server", Both(), "--prompt", "x"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("from the second"));
  const std::string port = first_.address().substr(first_.address().find(':'));
  EXPECT_EQ(RunSpotlight("", {"loads", "--server", "dns:///localhost" + port, "--connect-timeout", "0.5"}).exit_code, 5)
      << "it does not serve";
  EXPECT_EQ(RunSpotlight("", {"loads", "--server", "localhost" + port}).exit_code, 0);
}

TEST_F(ReplicasTest, WhereNoneServesTheErrorSaysSo) {
  first_.set_health(HealthCheckResponse::NOT_SERVING);
  second_.set_health(HealthCheckResponse::NOT_SERVING);
  const auto done = RunSpotlight(Both(), {"generate", "--prompt", "x", "--connect-timeout", "0.5"});
  EXPECT_EQ(done.exit_code, 5);
  EXPECT_THAT(done.err, HasSubstr("cannot reach " + Both()));
  EXPECT_THAT(done.err, HasSubstr("unhealthy"));
}

}  // namespace
}  // namespace spotlight::client
