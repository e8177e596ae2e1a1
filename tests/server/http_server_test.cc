#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httplib.h"
#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

class HttpServerTest : public RunningServer {
 protected:
  httplib::Result Get(const char* path) {
    httplib::Client client("127.0.0.1", server_->http_port());
    return client.Get(path);
  }
};

TEST_F(HttpServerTest, ReadinessFollowsTheModel) {
  auto result = Get("/readyz");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 503);
  EXPECT_EQ(result->body, "loading the model's weights, 0%\n");
  server_->OnLoadProgress(0.25);
  EXPECT_EQ(Get("/readyz")->body, "loading the model's weights, 25%\n");
  server_->OnLoadProgress(1);
  EXPECT_EQ(Get("/readyz")->body, "the weights are loaded: preparing hash, cache and graphs\n");
  EXPECT_EQ(Get("/healthz")->status, 200);
  Serve();
  EXPECT_EQ(Get("/readyz")->status, 200);
  server_->Drain(absl::ZeroDuration());
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_EQ(Get("/healthz")->status, 200);
}

TEST_F(HttpServerTest, MetricsAreThereBeforeAndAfterTheModel) {
  auto result = Get("/metrics");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_NE(result->body.find("spotlight_health_status{model_name=\"fake\"} 0\n"), std::string::npos);
  Serve();
  const std::string body = Get("/metrics")->body;
  EXPECT_NE(body.find("spotlight_health_status{model_name=\"fake\"} 1\n"), std::string::npos);
  EXPECT_NE(body.find("spotlight_kv_cache_usage_ratio{model_name=\"fake\"} 0.25\n"), std::string::npos);
  EXPECT_NE(body.find("process_resident_memory_bytes "), std::string::npos);
}

class ChosenBucketsTest : public RunningServer {
 protected:
  ChosenBucketsTest() : RunningServer(Options()) {}
  static ServerOptions Options() {
    ServerOptions options;
    options.histogram_buckets = {{"spotlight_time_to_first_token_seconds", {0.75, 1.5}}};
    return options;
  }
};

TEST_F(ChosenBucketsTest, AScrapeShowsTheBoundsThatWereChosen) {
  httplib::Client client("127.0.0.1", server_->http_port());
  const std::string body = client.Get("/metrics")->body;
  const std::string family = "spotlight_time_to_first_token_seconds";
  const size_t begin = body.find("# TYPE " + family);
  const size_t end = body.find("# HELP", begin);
  EXPECT_EQ(body.substr(begin, end - begin),
            absl::StrCat("# TYPE ", family, " histogram\n", family, "_bucket{model_name=\"fake\",le=\"0.75\"} 0\n",
                         family, "_bucket{model_name=\"fake\",le=\"1.5\"} 0\n", family,
                         "_bucket{model_name=\"fake\",le=\"+Inf\"} 0\n", family, "_sum{model_name=\"fake\"} 0\n",
                         family, "_count{model_name=\"fake\"} 0\n"));
}

TEST_F(HttpServerTest, ProbesAskTheEngine) {
  Serve();
  EXPECT_EQ(Get("/readyz")->status, 200);
  engine::EngineLoad load;
  load.healthy = false;
  engine_.set_load(load);
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_EQ(Get("/healthz")->status, 503);
}

TEST_F(HttpServerTest, IdleConnectionsDoNotStarveTheProbes) {
  constexpr int kNumIdle = 16;
  std::vector<int> idle;
  for (int i = 0; i < kNumIdle; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_GE(fd, 0);
    idle.push_back(fd);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->http_port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  httplib::Client client("127.0.0.1", server_->http_port());
  client.set_read_timeout(4);  // above the server's own bound for an idle connection, 1 s
  const auto result = client.Get("/healthz");
  for (const int fd : idle) close(fd);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
}

TEST_F(HttpServerTest, OtherPathsAreNotFound) {
  EXPECT_EQ(Get("/")->status, 404);
}

TEST_F(HttpServerTest, PortInUseIsAnErrorThatNamesTheAddress) {
  ServerOptions options;
  options.listen.port = server_->grpc_port();
  options.http.port = 0;
  auto second = Server::Start(options, nullptr);
  EXPECT_EQ(second.status().message(), absl::StrCat("127.0.0.1:", server_->grpc_port(), ": address already in use"));
  options.listen.port = 0;
  options.http.port = server_->http_port();
  second = Server::Start(options, nullptr);
  EXPECT_EQ(second.status().message(), absl::StrCat("127.0.0.1:", server_->http_port(), ": address already in use"));
}

TEST(ListenAddressTest, ReadsHostsAndPorts) {
  EXPECT_EQ(ParseListenAddress("localhost:0")->host, "localhost");
  EXPECT_EQ(ParseListenAddress("[::1]:50051")->host, "::1");
  EXPECT_EQ(ParseListenAddress("[::1]:50051")->ToString(), "[::1]:50051");
  for (const char* text : {"", "50051", ":50051", "host:", "host:70000", "host:-1", "::1:50051", "host:1x"}) {
    EXPECT_EQ(ParseListenAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ListenAddressTest, KnowsLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseListenAddress(text)->is_loopback()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"}) {
    EXPECT_FALSE(ParseListenAddress(text)->is_loopback()) << text;
  }
}

TEST(ListenAddressTest, UnknownHostIsNamed) {
  ListenAddress address;
  address.host = "256.0.0.1.invalid";
  EXPECT_NE(CheckBindable(address).message().find("256.0.0.1.invalid"), absl::string_view::npos);
}

}  // namespace
}  // namespace spotlight::server
