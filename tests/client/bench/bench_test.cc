#include <stdlib.h>

#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/client/bench/bench_runner.h"
#include "tests/client/bench/timed_generation_server.h"

namespace spotlight::testing {
namespace {

using std::chrono::milliseconds;
using Json = nlohmann::json;

TokenSchedule Schedule(int ttft_ms, int interval_ms) {
  TokenSchedule schedule;
  schedule.ttft = milliseconds(ttft_ms);
  schedule.interval = milliseconds(interval_ms);
  return schedule;
}

const std::vector<std::string> kJson = {"--result-filename", "-"};

BenchRun RunJson(const TimedGenerationServer& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), kJson.begin(), kJson.end());
  return RunBench(server.address(), arguments);
}

// Nothing may be reported earlier than the server's schedule; how much later depends on the machine, which may be busy,
// so the upper bounds are for medians and means.
TEST(BenchTest, LatenciesAreThoseOfTheServersSchedule) {
  const TimedGenerationServer server(Schedule(60, 20));
  const Json json = RunJson(server, {"--max-concurrency", "8", "--num-prompts", "24", "--output-len", "21",
                                     "--save-detailed", "--input-len", "16"})
                        .json();
  EXPECT_EQ(json["completed"], 24);
  EXPECT_EQ(json["total_output_tokens"], 24 * 21);
  EXPECT_EQ(json["total_input_tokens"], 24 * 16);
  for (const double ttft : json["ttfts"]) EXPECT_GE(ttft, 0.060);
  EXPECT_LE(json["median_ttft_ms"], 75);
  EXPECT_NEAR(json["median_itl_ms"], 20, 3);
  EXPECT_NEAR(json["mean_itl_ms"], 20, 2);
  EXPECT_NEAR(json["mean_tpot_ms"], 20, 2);
  for (const Json& gaps : json["itls"]) EXPECT_EQ(gaps.size(), 20);
  EXPECT_GE(json["mean_e2el_ms"], 460);  // 60 + 20 * 20
  EXPECT_LE(json["median_e2el_ms"], 500);
  EXPECT_EQ(json["max_concurrent_requests"], 8);
}

// 30 requests a second for a server that answers one in 50 ms: from their sending all look fast.
TEST(BenchTest, AnOpenLoopCountsFromTheIntendedTime) {
  const TimedGenerationServer server(Schedule(50, 0));
  const Json json = RunJson(server, {"--request-rate", "60", "--max-concurrency", "1", "--num-prompts", "30",
                                     "--output-len", "1", "--input-len", "4"})
                        .json();
  EXPECT_EQ(json["latency_origin"], "intended_send");
  // The last of 30 has waited for 29 others of 50 ms, and was meant to be sent at about 500 ms.
  EXPECT_GE(json["max_ttft_ms"], 500);
  EXPECT_LE(json["median_ttft_from_send_ms"], 100);
  EXPECT_GE(json["max_client_queue_time_ms"], 450);
  EXPECT_NEAR(json["mean_ttft_ms"], double{json["mean_ttft_from_send_ms"]} + double{json["mean_client_queue_time_ms"]},
              1e-6);
}

TEST(BenchTest, AnOpenLoopSendsWhatItShouldWhateverTheServerDoes) {
  const TimedGenerationServer server(Schedule(400, 0));
  const Json json = RunJson(server, {"--request-rate", "200", "--duration", "1", "--output-len", "1"}).json();
  EXPECT_NEAR(json["num_prompts"], 200, 60);
  EXPECT_GE(json["max_concurrent_requests"], 50);  // 80 on average: nobody waits for an answer
  EXPECT_LE(json["median_client_queue_time_ms"], 5);
}

TEST(BenchTest, TheJsonHasTheNamesOfVllmBenchServe) {
  const TimedGenerationServer server(Schedule(1, 1));
  const Json json = RunJson(server, {"--num-prompts", "3", "--output-len", "4", "--save-detailed", "--goodput",
                                     "ttft:5000", "tpot:5000", "--metadata", "gpu=none", "--label", "x"})
                        .json();
  for (const char* name : {"date",
                           "endpoint_type",
                           "backend",
                           "label",
                           "model_id",
                           "tokenizer_id",
                           "num_prompts",
                           "gpu",
                           "request_rate",
                           "burstiness",
                           "max_concurrency",
                           "duration",
                           "completed",
                           "failed",
                           "total_input_tokens",
                           "total_output_tokens",
                           "request_throughput",
                           "request_goodput",
                           "output_throughput",
                           "total_token_throughput",
                           "input_lens",
                           "output_lens",
                           "ttfts",
                           "itls",
                           "latencies",
                           "start_times",
                           "queue_times",
                           "errors",
                           "max_output_tokens_per_s",
                           "max_concurrent_requests"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  for (const char* latency : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* statistic : {"mean", "median", "std", "p50", "p90", "p95", "p99"}) {
      EXPECT_TRUE(json.contains(std::string(statistic) + "_" + latency + "_ms")) << statistic << " " << latency;
    }
  }
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_EQ(json["request_goodput"], json["request_throughput"]);
  EXPECT_EQ(json["model_id"], "timed");
}

TEST(BenchTest, CancelsAreCountedApartAndReachTheServer) {
  const TimedGenerationServer server(Schedule(1, 5));
  const Json json =
      RunJson(server, {"--max-concurrency", "10", "--num-prompts", "60", "--output-len", "20", "--cancel-share", "0.5"})
          .json();
  const int cancelled = json["cancelled"];
  EXPECT_NEAR(cancelled, 30, 18);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(int{json["completed"]} + cancelled, 60);
  EXPECT_EQ(json["total_output_tokens"], 20 * int{json["completed"]});
  EXPECT_TRUE(json.contains("p99_cancel_ms"));
  // A cancel near the end may come when the server has written all of it.
  const int most = cancelled * 3 / 4;
  for (int i = 0; i < 1000 && server.num_cancelled() < most; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_GE(server.num_cancelled(), most);
  EXPECT_LE(server.num_cancelled(), cancelled);
}

TEST(BenchTest, RefusalsAreCountedByStatusAndTheExitCodeIsThatOfSuccess) {
  TokenSchedule schedule = Schedule(1, 1);
  schedule.refuse_every = 4;
  const TimedGenerationServer server(schedule);
  const BenchRun run = RunJson(server, {"--max-concurrency", "4", "--num-prompts", "40", "--output-len", "3"});
  EXPECT_EQ(run.exit_code, client::kExitOk);
  const Json refused = run.json()["errors_by_status"]["RESOURCE_EXHAUSTED"];
  EXPECT_EQ(refused["count"], 10);
  EXPECT_NE(std::string(refused["first_message"]).find("queue_requests: full"), std::string::npos);
  EXPECT_GT(refused["p99_ms"], 0);
}

TEST(BenchTest, WhenAllRequestsFailTheExitCodeSaysWhy) {
  TokenSchedule refusing = Schedule(1, 1);
  refusing.refuse_every = 1;
  const TimedGenerationServer server(refusing), slow(Schedule(2000, 0));
  EXPECT_EQ(RunJson(server, {"--num-prompts", "3"}).exit_code, client::kExitRefused);
  const BenchRun late = RunJson(slow, {"--num-prompts", "3", "--deadline", "0.1", "--output-len", "1"});
  EXPECT_EQ(late.exit_code, client::kExitDeadline);
  EXPECT_EQ(late.json()["errors_by_status"]["DEADLINE_EXCEEDED"]["count"], 3);
  const BenchRun nobody = RunBench("127.0.0.1:1", {"--connect-timeout", "0.2"});
  EXPECT_EQ(nobody.exit_code, client::kExitUnreachable);
  EXPECT_NE(nobody.err.find("cannot reach 127.0.0.1:1"), std::string::npos) << nobody.err;
}

TEST(BenchTest, PromptsComeFromAFileWithTheLengthsOfTheirReferences) {
  const std::string path = std::string(getenv("TEST_TMPDIR")) + "/sharegpt.json";
  std::ofstream(path) << R"([{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "seven77"}]},
                             {"conversations": [{"from": "human", "value": "Ho"}, {"from": "gpt", "value": "two"}]}])";
  TimedGenerationServer server(Schedule(1, 1));
  server.RememberRequests();
  const BenchRun run =
      RunJson(server, {"--dataset", path, "--num-prompts", "4", "--max-concurrency", "1", "--temperature", "0.5"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  ASSERT_EQ(server.requests().size(), 4);
  EXPECT_EQ(server.requests()[0].text(), "Hi");
  EXPECT_EQ(server.requests()[0].stopping().max_tokens(), 7);  // the fake's tokens are bytes
  EXPECT_EQ(server.requests()[3].stopping().max_tokens(), 3);
  EXPECT_FALSE(server.requests()[0].stopping().ignore_eos());
  EXPECT_FLOAT_EQ(server.requests()[0].sampling().temperature(), 0.5);
}

TEST(BenchTest, WarmUpsAreNotCountedAndDifferFromTheRun) {
  TimedGenerationServer server(Schedule(1, 0));
  server.RememberRequests();
  const Json json = RunJson(server, {"--num-prompts", "5", "--num-warmups", "3", "--output-len", "1"}).json();
  EXPECT_EQ(json["completed"], 5);
  ASSERT_EQ(server.requests().size(), 8);
  for (int i = 3; i < 8; ++i) {
    EXPECT_NE(server.requests()[0].SerializeAsString(), server.requests()[i].SerializeAsString());
  }
}

TEST(BenchTest, TheTableGoesToStdout) {
  const TimedGenerationServer server(Schedule(1, 1));
  const BenchRun run = RunBench(server.address(), {"--request-rate", "100", "--num-prompts", "5", "--output-len", "4"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  for (const char* words : {"Completed requests:", "P99 TTFT (ms):", "Mean ITL (ms):", "Output throughput (tok/s):",
                            "from the intended send", "Client CPU (us per token):"}) {
    EXPECT_NE(run.out.find(words), std::string::npos) << words << "\n" << run.out;
  }
}

TEST(BenchTest, WrongUsageIsOneLineThatNamesTheFlag) {
  const struct {
    std::vector<std::string> arguments;
    const char* words;
  } cases[] = {
      {{"--request-rate", "0"}, "--request-rate takes requests a second above 0, or inf, got '0'"},
      {{"--max-concurrency", "0"}, "--max-concurrency must be 1 or more"},
      {{"--input-len", "9:2"}, "--input-len must be at least 1"},
      {{"--output-len", "many"}, "--output-len takes N or LOW:HIGH"},
      {{"--goodput", "ttft"}, "--goodput takes ttft:MS"},
      {{"--goodput", "ttft:5", "itl:4"}, "got 'itl:4'"},
      {{"--cancel-share", "2"}, "--cancel-share must be 0 to 1"},
      {{"--metric-percentiles", "50,101"}, "--metric-percentiles takes numbers of 0 to 100"},
      {{"--metadata", "x"}, "--metadata takes KEY=VALUE"},
      {{"--burstiness", "2"}, "--burstiness needs a --request-rate"},
      {{"--duration", "2"}, "--duration needs a --request-rate or a --max-concurrency"},
      {{"--save-detailed"}, "--save-detailed needs a --result-filename"},
      {{"--dataset", "x", "--input-len", "3"}, "--dataset has its own prompts"},
      {{"--dataset", "/nowhere"}, "cannot open /nowhere"},
      {{"--max-tokens", "3"}, "unknown flag --max-tokens"},
      {{"--request-rat", "3"}, "did you mean --request-rate?"},
      {{"generate"}, "unexpected argument 'generate'; spotlight-bench takes flags only"},
  };
  for (const auto& c : cases) {
    const BenchRun run = RunBench("127.0.0.1:1", c.arguments);
    EXPECT_EQ(run.exit_code, client::kExitUsage) << c.words;
    EXPECT_NE(run.err.find(c.words), std::string::npos) << run.err;
    EXPECT_EQ(run.err.rfind("spotlight-bench: ", 0), 0) << run.err;
    EXPECT_EQ(run.err.find('\n'), run.err.size() - 1) << run.err;
  }
}

TEST(BenchTest, AMetricsAddressThatDoesNotAnswerIsAnErrorBeforeTheRun) {
  TimedGenerationServer server(Schedule(1, 1));
  server.RememberRequests();
  const BenchRun run = RunBench(server.address(), {"--metrics-url", "http://127.0.0.1:1/metrics"});
  EXPECT_EQ(run.exit_code, client::kExitUnreachable);
  EXPECT_NE(run.err.find("cannot read http://127.0.0.1:1/metrics"), std::string::npos) << run.err;
  EXPECT_TRUE(server.requests().empty());
}

TEST(BenchTest, HelpNamesTheProgramAndEveryGroup) {
  const BenchRun run = RunBench("127.0.0.1:50051", {"--help"});
  EXPECT_EQ(run.exit_code, 0);
  for (const char* words : {"Usage: spotlight-bench [flags]", "Traffic", "Prompts and lengths", "Report", "Sampling",
                            "Retrieval", "Exit codes", "coordinated omission"}) {
    EXPECT_NE(run.out.find(words), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace spotlight::testing
