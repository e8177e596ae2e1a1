#include "server/load_report.h"

#include "tests/server/running_server.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/tcp_relay.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace spotlight::server {
namespace {

using xds::data::orca::v3::OrcaLoadReport;
using xds::service::orca::v3::OpenRcaService;
using xds::service::orca::v3::OrcaLoadReportRequest;

engine::EngineLoad Load(int32_t num_running, int32_t num_waiting, int32_t num_free_pages) {
  engine::EngineLoad load;
  load.num_running = num_running;
  load.num_waiting = num_waiting;
  load.num_waiting_tokens = 100 * num_waiting;
  load.num_pages = 100;
  load.num_free_pages = num_free_pages;
  return load;
}

CallRecord Ended(absl::Status status = absl::OkStatus()) {
  CallRecord record;
  record.method = "GenerateStream";
  record.status = std::move(status);
  return record;
}

TEST(LoadReporterTest, RatesAreThoseOfTheLastTenSecondsOrSo) {
  engine::FakeClock clock;
  LoadReporter reporter(&clock);
  for (int i = 0; i < 1000; ++i) {
    reporter.OnCallEnd(Ended(i % 4 == 0 ? absl::ResourceExhaustedError("queue_requests: full") : absl::OkStatus()));
    const absl::Status callers[] = {absl::CancelledError(),
                                    absl::InvalidArgumentError("text: must not be empty"),
                                    absl::UnauthenticatedError(""),
                                    absl::ResourceExhaustedError("caller_rate: the limit of this token is 60"),
                                    absl::ResourceExhaustedError("caller_share: 80 of the 80 requests"),
                                    absl::ResourceExhaustedError("unread_bytes: the client does not read"),
                                    absl::ResourceExhaustedError("answer_bytes: the answer takes too much")};
    reporter.OnCallEnd(Ended(callers[i % 7]));
    clock.Advance(absl::Milliseconds(100));
  }
  EXPECT_NEAR(reporter.Report(nullptr).rps_fractional(), 20, 0.5);
  EXPECT_NEAR(reporter.Report(nullptr).eps(), 2.5, 0.2) << "what callers do is no error of the server's";
  CallRecord question;
  question.method = "GetLoads";
  const double before = reporter.Report(nullptr).rps_fractional();
  reporter.OnCallEnd(question);
  EXPECT_EQ(reporter.Report(nullptr).rps_fractional(), before);
  clock.Advance(absl::Seconds(60));
  EXPECT_LT(reporter.Report(nullptr).rps_fractional(), 0.1);
}

TEST(LoadReporterTest, UtilizationIsThatOfWhatIsScarcest) {
  spotlight::testing::FakeEngine engine;
  engine.mutable_options()->scheduler.max_running = 10;
  const LoadReporter reporter;
  engine.set_load(Load(0, 0, 25));  // a fake engine counts its running requests itself
  OrcaLoadReport report = reporter.Report(&engine);
  EXPECT_EQ(report.application_utilization(), 0.75) << "the cache";
  EXPECT_EQ(report.utilization().at("kv_cache"), 0.75);
  EXPECT_EQ(report.utilization().at("running"), 0);
  engine.set_load(Load(0, 15, 50));
  report = reporter.Report(&engine);
  EXPECT_EQ(report.application_utilization(), 1.5) << "above 1 while requests wait";
  EXPECT_EQ(report.named_metrics().at("requests_waiting"), 15);
  EXPECT_EQ(report.named_metrics().at("requests_waiting_tokens"), 1500);
}

class OrcaTest : public RunningServer {
 protected:
  explicit OrcaTest(const ServerOptions& options = {}) : RunningServer(options) { Serve(); }

  // What the server sent, besides text, to a client whose call the engine ended after three tokens. gRPC's client keeps
  // this trailer to itself.
  std::string BytesOfAStream() {
    spotlight::testing::TcpRelay relay(server_->grpc_port());
    const auto stub = v1::Generation::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", relay.port()), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    auto reader = stub->GenerateStream(&context, Request("a"));
    engine_.TakeRequest();
    engine_.Finish("a", engine_.Stopped(5, 3));
    v1::GenerateStreamResponse message;
    while (reader->Read(&message)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    return relay.from_server();
  }
};

TEST(LoadReportTest, TheTrailerHoldsTheLoadAndWhatTheCallCost) {
  spotlight::testing::FakeEngine engine;
  CallRecord record = Ended();
  record.finish = engine.Stopped(5, 3);
  OrcaLoadReport report;
  ASSERT_TRUE(report.ParseFromString(LoadReportTrailer(LoadReporter().Report(&engine), record)));
  EXPECT_EQ(report.utilization().at("kv_cache"), 0.25);
  EXPECT_EQ(report.request_cost().at("prompt_tokens"), 5);
  EXPECT_EQ(report.request_cost().at("completion_tokens"), 3);
}

TEST_F(OrcaTest, EachGenerationCallCarriesItsReport) {
  const std::string bytes = BytesOfAStream();
  for (const char* part : {"endpoint-load-metrics-bin", "kv_cache_usage_ratio", "completion_tokens"}) {
    EXPECT_NE(bytes.find(part), std::string::npos) << part;
  }
}

TEST_F(OrcaTest, TheServiceReportsEverySecondUntilCancelled) {
  const auto orca = OpenRcaService::NewStub(channel_);
  grpc::ClientContext context;
  OrcaLoadReportRequest request;
  request.mutable_report_interval()->set_nanos(1000000);  // sooner than it allows
  auto reader = orca->StreamCoreMetrics(&context, request);
  OrcaLoadReport report;
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_EQ(report.named_metrics().at("kv_cache_usage_ratio"), 0.25);
  const auto first = std::chrono::steady_clock::now();
  engine_.set_load(Load(0, 0, 10));
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_EQ(report.named_metrics().at("kv_cache_usage_ratio"), 0.9);
  EXPECT_GT(std::chrono::steady_clock::now() - first, std::chrono::milliseconds(800));
  context.TryCancel();
  while (reader->Read(&report)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(OrcaTest, ShutdownEndsItsStreams) {
  const auto orca = OpenRcaService::NewStub(channel_);
  grpc::ClientContext context;
  auto reader = orca->StreamCoreMetrics(&context, {});
  OrcaLoadReport report;
  ASSERT_TRUE(reader->Read(&report));
  server_->Shutdown();
  EXPECT_FALSE(reader->Read(&report));
  EXPECT_FALSE(reader->Finish().ok());
}

class NoReportsTest : public OrcaTest {
 protected:
  NoReportsTest() : OrcaTest(Options()) {}
  static ServerOptions Options() {
    ServerOptions options;
    options.load_reports = false;
    return options;
  }
};

TEST_F(NoReportsTest, NothingIsReported) {
  EXPECT_EQ(BytesOfAStream().find("endpoint-load-metrics-bin"), std::string::npos);
  const auto orca = OpenRcaService::NewStub(channel_);
  grpc::ClientContext report_context;
  EXPECT_EQ(orca->StreamCoreMetrics(&report_context, {})->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace spotlight::server
