// Overload and faults, over the wire: the real server and engine, a model of known speed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "httplib.h"
#include "tests/server/served_engine.h"
#include "tests/testing/captured_log.h"

namespace spotlight::server {
namespace {

using Steady = std::chrono::steady_clock;
using std::chrono::milliseconds;

double SecondsSince(Steady::time_point start) {
  return std::chrono::duration<double>(Steady::now() - start).count();
}

class AdmissionTest : public ServedEngine {
 protected:
  // Every step takes that long.
  void StartWithSteps(milliseconds step) {
    Start();
    runner_->OnRun([step](const engine::Batch&) { std::this_thread::sleep_for(step); });
  }
  grpc::Status Generate(const std::string& id, int32_t max_tokens, milliseconds timeout) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    v1::GenerateResponse reply;
    return stub_->Generate(&context, TokensRequest(id, max_tokens), &reply);
  }
  // A call is counted when its client has its status already.
  void TakeRecords(int count) {
    for (int i = 0; i < count; ++i) TakeRecord();
  }
  std::string Metrics() {
    httplib::Client client("127.0.0.1", server_->http_port());
    return client.Get("/metrics")->body;
  }

  spotlight::testing::CapturedLog log_;
};

TEST_F(AdmissionTest, ADeadlineThatNoServerCouldMeetIsRefusedAtOnce) {
  StartWithSteps(milliseconds(5));
  ASSERT_TRUE(Generate("measure", 20, milliseconds(20000)).ok());
  grpc::ClientContext running_context;
  const auto running = stub_->GenerateStream(&running_context, TokensRequest("running", 4000));
  v1::GenerateStreamResponse message;
  while (message.token_ids_size() == 0 && running->Read(&message)) {
  }
  const auto start = Steady::now();
  const grpc::Status status = Generate("late", 4000, milliseconds(5000));  // takes 20 s
  EXPECT_LT(SecondsSince(start), 4);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(absl::StartsWith(status.error_message(), "deadline: in ")) << status.error_message();
  EXPECT_TRUE(absl::StrContains(status.error_message(), "on an idle server")) << status.error_message();
  TakeRecords(2);
  EXPECT_TRUE(
      absl::StrContains(Metrics(), "spotlight_requests_rejected_total{model_name=\"fake\",reason=\"deadline\"} 1"));
  running_context.TryCancel();
}

TEST_F(AdmissionTest, ADeadlineThatTheQueueForbidsSaysWhenToComeBack) {
  options_.scheduler.max_running = 1;
  StartWithSteps(milliseconds(2));
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Generate("measure" + std::to_string(i), 10, milliseconds(20000)).ok());
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> streams;
  for (int i = 0; i < 40; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub_->GenerateStream(contexts.back().get(), TokensRequest("long" + std::to_string(i), 100)));
  }
  while (served_->Load().num_waiting < 35) std::this_thread::yield();
  const grpc::Status status = Generate("late", 50, milliseconds(1000));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "deadline");
  const auto delay = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
  EXPECT_GE(delay.seconds() + 1e-9 * delay.nanos(), 0.1);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& stream : streams) {
    v1::GenerateStreamResponse message;
    while (stream->Read(&message)) {
    }
    stream->Finish();
  }
}

// 8 places, 20 tokens of 3 ms each: about 120 requests a second. Ten times as many clients as places, each asking again
// as soon as it is answered.
TEST_F(AdmissionTest, UnderOverloadAdmittedRequestsEndInTimeAndTheRestHearOfItAtOnce) {
  options_.queue.max_waiting_requests = 64;
  StartWithSteps(milliseconds(3));
  ASSERT_TRUE(Generate("measure", 20, milliseconds(20000)).ok());
  constexpr milliseconds kTimeout(600);
  std::atomic<int> next{0}, good{0}, late{0};
  Mutex mutex;
  std::vector<double> refusals, answers;
  std::vector<std::thread> clients;
  const auto start = Steady::now();
  for (int c = 0; c < 80; ++c) {
    clients.emplace_back([&] {
      while (SecondsSince(start) < 3) {
        const auto sent = Steady::now();
        const grpc::Status status = Generate(std::to_string(next++), 20, kTimeout);
        const double seconds = SecondsSince(sent);
        if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) ++late;
        {
          MutexLock lock(&mutex);
          if (status.ok()) answers.push_back(seconds);
          if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) refusals.push_back(seconds);
        }
        if (status.ok()) ++good;
        // What RetryInfo says at the least.
        if (!status.ok()) std::this_thread::sleep_for(milliseconds(100));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  std::sort(refusals.begin(), refusals.end());
  std::sort(answers.begin(), answers.end());
  ASSERT_FALSE(answers.empty());
  ASSERT_FALSE(refusals.empty());
  std::printf("%.0f answers/s, p99 %.0f ms; %zu refused, median %.1f ms, p90 %.1f ms; %d late\n", good / 3.0,
              1e3 * answers[answers.size() * 99 / 100], refusals.size(), 1e3 * refusals[refusals.size() / 2],
              1e3 * refusals[refusals.size() * 9 / 10], late.load());
  // Far from what it does on a machine of its own (136 a second, 2% late): here others may have the cores.
  EXPECT_GE(good, 3 * 20);
  EXPECT_LE(late, good);
  EXPECT_LT(refusals[refusals.size() / 2], 0.050);
}

TEST_F(AdmissionTest, APromptThatTheWholeCacheCannotHoldIsRefusedForItsCapacity) {
  options_.scheduler.num_pages = 4;
  Start();
  v1::GenerateRequest request = TokensRequest("large", 1);
  request.mutable_token_ids()->mutable_ids()->Resize(4 * 64, 1);
  grpc::ClientContext context;
  v1::GenerateResponse reply;
  const grpc::Status status = stub_->Generate(&context, request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(),
            "token_ids: a prompt of 256 tokens leaves no room for output in the KV cache of 256 tokens");
  request.mutable_token_ids()->mutable_ids()->Resize(8192, 1);  // nor the model
  grpc::ClientContext another_context;
  EXPECT_EQ(stub_->Generate(&another_context, request, &reply).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  TakeRecords(2);
  const std::string rejected = "spotlight_requests_rejected_total{model_name=\"fake\",reason=";
  EXPECT_TRUE(absl::StrContains(Metrics(), absl::StrCat(rejected, "\"kv_capacity\"} 1\n")));
  EXPECT_TRUE(absl::StrContains(Metrics(), absl::StrCat(rejected, "\"invalid\"} 1\n")));
}

TEST_F(AdmissionTest, AStepThatFailsEndsItsRequestsWithOneStatusAndTheServerStopsServing) {
  Start();
  constexpr int kStreams = 6;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> streams;
  for (int i = 0; i < kStreams; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub_->GenerateStream(contexts.back().get(), TokensRequest(std::to_string(i), 4000)));
    v1::GenerateStreamResponse message;
    ASSERT_TRUE(streams.back()->Read(&message));
  }
  runner_->Fail(absl::InternalError("illegal memory access"));
  for (const auto& stream : streams) {
    v1::GenerateStreamResponse message;
    while (stream->Read(&message)) {
    }
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_EQ(status.error_message(), "device fault: illegal memory access");
  }
  EXPECT_EQ(Generate("new", 5, milliseconds(10000)).error_code(), grpc::StatusCode::UNAVAILABLE);
  TakeRecords(kStreams + 1);
  EXPECT_TRUE(
      absl::StrContains(Metrics(), "spotlight_requests_rejected_total{model_name=\"fake\",reason=\"unhealthy\"} 1"));
  EXPECT_EQ(server_->state(), ServingState::kFailed);
  grpc::health::v1::HealthCheckRequest check;
  check.set_service("liveness");
  grpc::health::v1::HealthCheckResponse health;
  grpc::ClientContext context;
  ASSERT_TRUE(health_->Check(&context, check, &health).ok());
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  server_->Drain(absl::Seconds(10));  // nothing is left to wait for
  server_->Shutdown();
  EXPECT_EQ(log_.text(), "C the engine serves no more: device fault: illegal memory access\n")
      << "once, however many requests and polls hear of it";
}

TEST_F(AdmissionTest, AStepThatHangsTakesTheServerOutOfService) {
  options_.max_step_seconds = 0.5;
  Start();
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, TokensRequest("hangs", 4000));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(stream->Read(&message));
  runner_->Pause();
  const auto start = Steady::now();
  while (server_->state() != ServingState::kFailed && SecondsSince(start) < 30) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(server_->state(), ServingState::kFailed);
  httplib::Client http("127.0.0.1", server_->http_port());
  EXPECT_EQ(http.Get("/healthz")->status, 503);
  const grpc::Status refused = Generate("new", 5, milliseconds(10000));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(refused.error_message(), "the engine hangs: a step did not end within 500ms");
  const auto drained = Steady::now();
  server_->Drain(absl::Milliseconds(100));  // does not wait for a step that never ends
  EXPECT_LT(SecondsSince(drained), 30);
  EXPECT_EQ(served_->Load().num_running, 1);
  runner_->Resume();
  EXPECT_EQ(server_->state(), ServingState::kFailed) << "for good: whoever watches it replaces it";
  server_->Drain(absl::Seconds(10));
  EXPECT_EQ(served_->Load().num_running, 0);
  EXPECT_FALSE(served_->Load().healthy) << "they agree";
  server_->Shutdown();
  EXPECT_EQ(log_.text(), "C the engine serves no more: the engine hangs: a step did not end within 500ms\n");
}

TEST_F(AdmissionTest, AScraperThatDoesNotReadHoldsUpNobody) {
  StartWithSteps(milliseconds(1));
  std::vector<std::unique_ptr<httplib::Client>> idle;
  std::atomic<int> reading{0};
  std::vector<std::thread> scrapers;
  for (int i = 0; i < 8; ++i) {
    scrapers.emplace_back([&] {
      httplib::Client client("127.0.0.1", server_->http_port());
      client.Get("/metrics", [&](const char*, size_t) {
        ++reading;
        std::this_thread::sleep_for(milliseconds(1500));
        return false;
      });
    });
  }
  while (reading < 8) std::this_thread::yield();
  const auto start = Steady::now();
  EXPECT_TRUE(Generate("a", 20, milliseconds(20000)).ok());
  EXPECT_FALSE(Metrics().empty());
  EXPECT_LT(SecondsSince(start), 1.4);
  for (std::thread& scraper : scrapers) scraper.join();
}

TEST_F(AdmissionTest, DrainingRefusesNewWorkAndLetsStreamsEnd) {
  StartWithSteps(milliseconds(2));
  grpc::health::v1::HealthCheckRequest check;
  check.set_service("readiness");
  grpc::ClientContext watch_context;
  const auto watch = health_->Watch(&watch_context, check);
  grpc::health::v1::HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  ASSERT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, TokensRequest("runs", 300));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(stream->Read(&message));
  std::thread drain([&] { server_->Drain(absl::Seconds(60)); });
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  while (!served_->Load().draining) std::this_thread::yield();
  const grpc::Status refused = Generate("new", 5, milliseconds(10000));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(refused).retry_delay().seconds(), 1);
  int tokens = 0;
  do {
    tokens += message.token_ids_size();
  } while (stream->Read(&message));
  EXPECT_EQ(tokens, 300);
  EXPECT_TRUE(stream->Finish().ok());
  drain.join();
  TakeRecords(2);
  EXPECT_TRUE(
      absl::StrContains(Metrics(), "spotlight_requests_rejected_total{model_name=\"fake\",reason=\"draining\"} 1"));
  watch_context.TryCancel();
}

}  // namespace
}  // namespace spotlight::server
