#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "tests/server/running_server.h"
#include "tests/testing/captured_log.h"

namespace spotlight::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class HealthTest : public RunningServer {
 protected:
  HealthCheckResponse::ServingStatus Check(const std::string& name) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    const grpc::Status status = health_->Check(&context, request, &response);
    EXPECT_TRUE(status.ok()) << name << ": " << status.error_message();
    return response.status();
  }
};

TEST_F(HealthTest, EveryNameFollowsTheServersState) {
  EXPECT_EQ(Check("liveness"), HealthCheckResponse::SERVING);
  for (const char* name : {"", "spotlight.v1.Generation", "readiness"}) {
    EXPECT_EQ(Check(name), HealthCheckResponse::NOT_SERVING) << name;
  }
  Serve();
  for (const char* name : {"", "spotlight.v1.Generation", "readiness", "liveness"}) {
    EXPECT_EQ(Check(name), HealthCheckResponse::SERVING) << name;
  }
  server_->Drain(absl::ZeroDuration());
  EXPECT_EQ(Check("readiness"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("liveness"), HealthCheckResponse::SERVING);
}

TEST_F(HealthTest, AGraphThatCouldNotBeCapturedIsInTheLogWithItsReason) {
  const spotlight::testing::CapturedLog log;
  Serve();
  engine::StepStats step;
  step.num_decode_rows = 1;
  step.graph_capture = absl::ResourceExhaustedError("no memory");
  server_->stats()->OnStep(step);
  server_->Shutdown();
  EXPECT_EQ(log.text(),
            "W a CUDA graph could not be captured, so steps of its kind are enqueued kernel by kernel: no memory\n");
}

TEST_F(HealthTest, CheckOfAnUnknownNameIsNotFound) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("nobody");
  HealthCheckResponse response;
  EXPECT_EQ(health_->Check(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(HealthTest, WatchSendsEveryTransition) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("readiness");
  auto watch = health_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  Serve();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->Drain(absl::ZeroDuration());
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(HealthTest, WatchOfAnUnknownNameStaysOpen) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("nobody");
  auto watch = health_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  server_->Shutdown();  // ends it
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_FALSE(watch->Finish().ok());
}

TEST_F(HealthTest, DeviceFaultEndsLiveness) {
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request("a"));
  engine_.TakeRequest();
  engine::EngineLoad load;
  load.healthy = false;
  engine_.set_load(load);
  engine::Finish finish;
  finish.reason = engine::FinishReason::kError;
  finish.status = absl::InternalError("CUDA error: an illegal memory access was encountered");
  engine_.Finish("a", finish);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INTERNAL);
  TakeRecord();
  EXPECT_EQ(server_->state(), ServingState::kFailed);
  EXPECT_EQ(Check("liveness"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("readiness"), HealthCheckResponse::NOT_SERVING);
}

TEST_F(HealthTest, StoppedEngineShowsWithoutACall) {
  Serve();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  HealthCheckRequest request;
  request.set_service("liveness");
  auto watch = health_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  engine::EngineLoad load;
  load.healthy = false;
  engine_.set_load(load);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("readiness"), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
}

// After a fault the engine only refuses: no call ends with INTERNAL any more.
TEST_F(HealthTest, RefusalByAStoppedEngineEndsLiveness) {
  Serve();
  engine::EngineLoad load;
  load.healthy = false;
  engine_.set_load(load);
  engine_.set_submit_status(absl::UnavailableError("the engine has stopped: device fault"));
  grpc::ClientContext context;
  EXPECT_EQ(stub_->GenerateStream(&context, Request("a"))->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  TakeRecord();
  EXPECT_EQ(server_->state(), ServingState::kFailed);
}

// Debian installs no header of the reflection protocol: field 7 of the request lists the services, and their names are
// in the reply's bytes.
grpc::Status ListServices(const std::shared_ptr<grpc::Channel>& channel, std::string* reply_bytes) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag;
  bool ok;
  const auto next = [&] { return queue.Next(&tag, &ok) && ok; };
  auto call = stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  next();
  const grpc::Slice slice(std::string("\x3a\x00", 2));
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  next();
  grpc::ByteBuffer reply;
  call->Read(&reply, nullptr);
  if (next()) {
    grpc::Slice bytes;
    reply.DumpToSingleSlice(&bytes).ok();
    reply_bytes->assign(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  }
  call->WritesDone(nullptr);
  next();
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  return status;
}

TEST_F(HealthTest, ReflectionListsTheServices) {
  std::string reply;
  EXPECT_TRUE(ListServices(channel_, &reply).ok());
  EXPECT_NE(reply.find("spotlight.v1.Generation"), std::string::npos);
  EXPECT_NE(reply.find("grpc.health.v1.Health"), std::string::npos);
}

TEST(ReflectionTest, IsOffWhenTheOptionSaysSo) {
  ServerOptions options;
  options.listen.port = 0;
  options.http.port = 0;
  options.reflection = false;
  auto server = Server::Start(options, nullptr);
  ASSERT_TRUE(server.ok()) << server.status();
  std::string reply;
  const auto channel =
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*server)->grpc_port()), grpc::InsecureChannelCredentials());
  EXPECT_EQ(ListServices(channel, &reply).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace spotlight::server
