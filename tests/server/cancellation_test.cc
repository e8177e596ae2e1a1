// Clients that leave, through the real server and engine, counted in steps.
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "httplib.h"
#include "tests/server/served_engine.h"

namespace spotlight::server {
namespace {

using Stream = std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>;

class CancellationTest : public ServedEngine {
 protected:
  // A stream that decodes, and a step of it under way until Resume.
  Stream StartAndHold(grpc::ClientContext* context, const std::string& id) {
    Stream stream = stub_->GenerateStream(context, TokensRequest(id, 4000));
    v1::GenerateStreamResponse message;
    for (int tokens = 0; tokens < 3 && stream->Read(&message);) tokens += message.token_ids_size();
    runner_->Pause();
    return stream;
  }
  std::string Metrics() {
    httplib::Client client("127.0.0.1", server_->http_port());
    return client.Get("/metrics")->body;
  }
  // Only the step that was under way may end.
  void ExpectReleasedWithinOneStep(int64_t runs_before, absl::StatusCode code) {
    runner_->Resume();
    const CallRecord record = TakeRecord();
    EXPECT_LE(runner_->num_runs(), runs_before + 2) << "the step under way, and one that had begun to be planned";
    EXPECT_EQ(served_->Load().num_free_pages, 64);
    EXPECT_EQ(served_->Load().num_running, 0);
    const int64_t runs = runner_->num_runs();
    // Nothing decodes for nobody afterwards: the next request's steps are all its own.
    v1::GenerateResponse reply;
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Generate(&context, TokensRequest("next", 5), &reply).ok());
    TakeRecord();
    EXPECT_EQ(runner_->num_runs(), runs + 5);
    const std::string metrics = Metrics();
    EXPECT_TRUE(
        absl::StrContains(metrics, "spotlight_cancel_release_seconds_count{model_name=\"fake\",phase=\"decode\"} 1"))
        << metrics;
    EXPECT_TRUE(
        absl::StrContains(metrics, "spotlight_requests_cancelled_total{model_name=\"fake\",phase=\"decode\"} 1"));
    ASSERT_TRUE(record.finish.has_value());
    EXPECT_EQ(record.status.code(), code);
  }
};

TEST_F(CancellationTest, AClientThatCancelsFreesItsPlaceWithinOneStep) {
  Start();
  grpc::ClientContext context;
  const Stream stream = StartAndHold(&context, "gone");
  const int64_t runs = runner_->num_runs();
  context.TryCancel();
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kClientGone);
  ExpectReleasedWithinOneStep(runs, absl::StatusCode::kCancelled);
}

TEST_F(CancellationTest, AClientThatVanishesFreesItsPlaceWithinOneStep) {
  Start();
  auto channel = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->grpc_port()),
                                           grpc::InsecureChannelCredentials(), [] {
                                             grpc::ChannelArguments arguments;
                                             arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
                                             return arguments;
                                           }());
  stub_ = v1::Generation::NewStub(channel);
  auto context = std::make_unique<grpc::ClientContext>();
  Stream stream = StartAndHold(context.get(), "gone");
  const int64_t runs = runner_->num_runs();
  stream.reset();  // the call and its connection go
  context.reset();
  stub_ = v1::Generation::NewStub(channel_);
  channel.reset();
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kClientGone);
  ExpectReleasedWithinOneStep(runs, absl::StatusCode::kCancelled);
}

TEST_F(CancellationTest, AnAbortFreesThePlaceWithinOneStep) {
  Start();
  grpc::ClientContext context;
  const Stream stream = StartAndHold(&context, "doomed");
  const int64_t runs = runner_->num_runs();
  v1::AbortRequest abort;
  abort.set_request_id("doomed");
  v1::AbortResponse aborted;
  grpc::ClientContext abort_context;
  ASSERT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_EQ(TakeRecord().method, std::string("Abort"));
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kAborted);
  ExpectReleasedWithinOneStep(runs, absl::StatusCode::kCancelled);
  v1::GenerateStreamResponse message;
  while (stream->Read(&message)) {
  }
  EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_ABORTED);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(CancellationTest, ADeadlineThatPassesFreesThePlaceWithinOneStep) {
  Start();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const Stream stream = StartAndHold(&context, "late");
  const int64_t runs = runner_->num_runs();
  v1::GenerateStreamResponse message;
  while (stream->Read(&message)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kDeadline);
  ExpectReleasedWithinOneStep(runs, absl::StatusCode::kDeadlineExceeded);
}

TEST_F(CancellationTest, AQueuedRequestThatIsCancelledNeverRuns) {
  options_.scheduler.max_running = 1;
  Start();
  grpc::ClientContext running_context;
  const Stream running = StartAndHold(&running_context, "running");
  grpc::ClientContext queued_context;
  const Stream queued = stub_->GenerateStream(&queued_context, TokensRequest("queued", 10));
  while (served_->Load().num_waiting == 0) std::this_thread::yield();
  queued_context.TryCancel();
  EXPECT_EQ(served_->TakeCancel(), engine::CancelReason::kClientGone);
  runner_->Resume();
  const CallRecord record = TakeRecord();
  EXPECT_EQ(record.request_id, "queued");
  EXPECT_EQ(record.finish->usage.completion_tokens, 0);
  // The pass that released it is reported with its step.
  for (const int64_t runs = runner_->num_runs(); runner_->num_runs() < runs + 2;) std::this_thread::yield();
  EXPECT_TRUE(
      absl::StrContains(Metrics(), "spotlight_cancel_release_seconds_count{model_name=\"fake\",phase=\"queued\"} 1"));
  running_context.TryCancel();
  TakeRecord();
}

}  // namespace
}  // namespace spotlight::server
