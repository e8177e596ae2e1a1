#include "client/generate_client.h"

#include "gtest/gtest.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::client {
namespace {

using ::spotlight::testing::FakeGenerationServer;
using ::spotlight::testing::LastMessage;
using ::spotlight::testing::TextMessage;

class GenerateClientTest : public ::testing::Test {
 protected:
  GenerateClientTest() : client_(CreateChannel(server_.address())) {}

  FakeGenerationServer server_;
  GenerateClient client_;
};

TEST_F(GenerateClientTest, GenerateReturnsTheWholeText) {
  server_.set_text("whole");
  v1::GenerateRequest request;
  request.set_text("prompt");
  const auto response = client_.Generate(request, {});
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->text(), "whole");
  EXPECT_EQ(server_.generate_requests()[0].text(), "prompt");
}

TEST_F(GenerateClientTest, AReceiverThatHasEnoughCancelsTheStream) {
  server_.AddStream({{TextMessage("a", 1), TextMessage("b", 2)}, {}, /*hold_open=*/true});
  int messages = 0;
  const absl::Status status =
      client_.GenerateStream({}, {}, [&](const v1::GenerateStreamResponse&) { return ++messages < 2; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(messages, 2);
  EXPECT_TRUE(server_.WaitForCancelledStreams(1));
}

TEST_F(GenerateClientTest, OneCancellationEndsConcurrentAndLaterCalls) {
  for (int i = 0; i < 2; ++i) server_.AddStream({{TextMessage("a", 1)}, {}, /*hold_open=*/true});
  Cancellation cancellation;
  CallOptions options;
  options.cancellation = &cancellation;
  // The inner call runs while the outer waits in its callback, so both are open at the cancel.
  absl::Status inner;
  const absl::Status outer = client_.GenerateStream({}, options, [&](const v1::GenerateStreamResponse&) {
    inner = client_.GenerateStream({}, options, [&](const v1::GenerateStreamResponse&) {
      cancellation.Cancel();
      return true;
    });
    return true;
  });
  EXPECT_EQ(inner.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(outer.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(server_.WaitForCancelledStreams(2));
  EXPECT_EQ(client_.GetLoads(options).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerateClientTest, TheDeadlineEndsACall) {
  server_.AddStream({{}, {}, /*hold_open=*/true});
  CallOptions options;
  options.deadline = absl::Milliseconds(20);
  const absl::Status status =
      client_.GenerateStream({}, options, [](const v1::GenerateStreamResponse&) { return true; });
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace spotlight::client
