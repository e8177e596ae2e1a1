// Exit codes and the one line on stderr, for every way a call can fail.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

#include "client/error_details.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/client/spotlight_runner.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A port of 127.0.0.1 that is taken, and refuses connections.
class RefusingPort {
 public:
  RefusingPort() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~RefusingPort() { close(fd_); }
  const std::string& address() const { return address_; }

 private:
  int fd_;
  std::string address_;
};

TEST(ErrorsTest, EveryStatusCodeHasItsExitCode) {
  const std::pair<grpc::StatusCode, int> cases[] = {
      {grpc::StatusCode::INVALID_ARGUMENT, 3},
      {grpc::StatusCode::NOT_FOUND, 3},
      {grpc::StatusCode::ALREADY_EXISTS, 3},
      {grpc::StatusCode::FAILED_PRECONDITION, 3},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, 3},
      {grpc::StatusCode::PERMISSION_DENIED, 3},
      {grpc::StatusCode::UNAUTHENTICATED, 3},
      {grpc::StatusCode::OUT_OF_RANGE, 3},
      {grpc::StatusCode::UNIMPLEMENTED, 3},
      {grpc::StatusCode::CANCELLED, 4},
      {grpc::StatusCode::ABORTED, 4},
      {grpc::StatusCode::UNAVAILABLE, 5},
      {grpc::StatusCode::DEADLINE_EXCEEDED, 6},
      {grpc::StatusCode::INTERNAL, 1},
      {grpc::StatusCode::UNKNOWN, 1},
      {grpc::StatusCode::DATA_LOSS, 1},
  };
  FakeGenerationServer server;
  for (const auto& [code, exit_code] : cases) {
    server.AddStream({{}, grpc::Status(code, "as told"), false});
    const SpotlightResult result = RunSpotlight(server.address(), {"generate", "--prompt", "x"});
    EXPECT_EQ(result.exit_code, exit_code) << code;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
}

TEST(ErrorsTest, AnUnreachableServerIsToldFastWithItsReason) {
  const RefusingPort port;
  const auto begin = std::chrono::steady_clock::now();
  const SpotlightResult result = RunSpotlight(port.address(), {"models", "--connect-timeout", "0.1"});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_THAT(result.err, AllOf(HasSubstr("cannot reach " + port.address() + " within 100ms"), HasSubstr("refused")));
}

TEST(ErrorsTest, CtrlCEndsTheWaitForAServer) {
  const RefusingPort port;
  SpotlightInput input;
  input.interrupted = true;
  const auto begin = std::chrono::steady_clock::now();
  const SpotlightResult result = RunSpotlight(port.address(), {"models", "--connect-timeout", "60"}, input);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err, "spotlight: cancelled\n");
}

grpc::Status WithDetails(grpc::StatusCode code, const std::string& message,
                         const std::vector<const google::protobuf::Message*>& details) {
  google::rpc::Status status;
  for (const google::protobuf::Message* detail : details) status.add_details()->PackFrom(*detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

TEST(ErrorsTest, FieldViolationsReachTheUser) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field("stopping.stop[3]");
  violation->set_description("must not be empty");
  FakeGenerationServer server;
  server.AddStream({{}, WithDetails(grpc::StatusCode::INVALID_ARGUMENT, "bad request", {&bad_request}), false});
  const SpotlightResult result = RunSpotlight(server.address(), {"generate", "--prompt", "x"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.err, "spotlight: INVALID_ARGUMENT: bad request; stopping.stop[3]: must not be empty\n");
}

TEST(ErrorsTest, RetryDelayAndQuotaReachTheUser) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  retry.mutable_retry_delay()->set_nanos(500000000);
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject("queue");
  violation->set_description("256 requests wait");
  FakeGenerationServer server;
  server.AddStream(
      {{}, WithDetails(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue: 256 requests wait", {&quota, &retry}), false});
  const SpotlightResult result = RunSpotlight(server.address(), {"generate", "--prompt", "x"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.err, "spotlight: RESOURCE_EXHAUSTED: queue: 256 requests wait (try again in 1.5s)\n");
}

TEST(ErrorsTest, DetailsAreAvailableToPrograms) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  const absl::Status status = client::FromGrpcStatus(WithDetails(grpc::StatusCode::UNAVAILABLE, "draining", {&retry}));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  const client::ErrorDetails details = client::DecodeErrorDetails(status);
  EXPECT_TRUE(details.violations.empty());
  ASSERT_TRUE(details.retry_delay.has_value());
  EXPECT_EQ(*details.retry_delay, absl::Seconds(2));
}

TEST(ErrorsTest, BrokenDetailsAndControlCharactersDoNoHarm) {
  const grpc::Status status(grpc::StatusCode::INTERNAL, "two\nlines \x1b[31mred", "not a google.rpc.Status");
  EXPECT_EQ(client::ErrorLine(client::FromGrpcStatus(status)), "INTERNAL: two lines  [31mred");
}

}  // namespace
}  // namespace spotlight::testing
