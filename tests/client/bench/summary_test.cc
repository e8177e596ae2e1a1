#include "client/bench/summary.h"

#include <limits>
#include <vector>

#include "client/bench/server_metrics.h"
#include "gtest/gtest.h"

namespace spotlight::client::bench {
namespace {

// Numbers of numpy.percentile([1, 2, 4, 8], p) and numpy.std.
TEST(StatisticsTest, AgreesWithNumpy) {
  const Statistics statistics = Summarize({8, 1, 4, 2}, {0, 25, 50, 90, 99, 100});
  EXPECT_DOUBLE_EQ(statistics.mean, 3.75);
  EXPECT_DOUBLE_EQ(statistics.median, 3);
  EXPECT_NEAR(statistics.std, 2.680951323690902, 1e-12);
  const std::vector<double> expected = {1, 1.75, 3, 6.8, 7.88, 8};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(statistics.percentiles[i], expected[i], 1e-12);
  EXPECT_EQ(Summarize({}, {99}).percentiles[0], 0);
}

// Meant for 1 s, sent at 1.25 s, tokens at 2, 2.5 and 4 s, ended at 4.5 s.
RequestRecord SomeRecord() {
  RequestRecord record;
  record.intended = 1;
  record.sent = 1.25;
  record.first_token = 2;
  record.gaps = {0.5, 1.5};
  record.last_token = 4;
  record.end = 4.5;
  record.prompt_tokens = 10;
  record.output_tokens = 3;
  return record;
}

TEST(SummaryTest, LatenciesCountFromTheIntendedTimeAndFromTheSendBesideIt) {
  const Summary summary = SummarizeRun({SomeRecord()}, {}, {99});
  EXPECT_DOUBLE_EQ(summary.ttft.mean, 1);
  EXPECT_DOUBLE_EQ(summary.ttft_from_send.mean, 0.75);
  EXPECT_DOUBLE_EQ(summary.e2el.mean, 3.5);
  EXPECT_DOUBLE_EQ(summary.e2el_from_send.mean, 3.25);
  EXPECT_DOUBLE_EQ(summary.queue.mean, 0.25);
  EXPECT_DOUBLE_EQ(summary.tpot.mean, 1);
  EXPECT_DOUBLE_EQ(summary.itl.mean, 1);
  EXPECT_DOUBLE_EQ(summary.itl.max, 1.5);
  EXPECT_DOUBLE_EQ(summary.duration, 4.5);
  EXPECT_DOUBLE_EQ(summary.output_throughput, 3 / 4.5);
  EXPECT_DOUBLE_EQ(summary.total_token_throughput, 13 / 4.5);
  EXPECT_DOUBLE_EQ(summary.peak_output_throughput, 2);  // between 2 and 3 s
}

TEST(SummaryTest, OnlyCompletedRequestsCountAndFailuresCountByStatus) {
  RequestRecord failed = SomeRecord(), cancelled = SomeRecord();
  failed.code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  failed.message = "full";
  cancelled.cancelled = true;
  cancelled.code = grpc::StatusCode::CANCELLED;
  cancelled.cancel_seconds = 0.002;
  const Summary summary = SummarizeRun({SomeRecord(), failed, cancelled, failed}, {}, {99});
  EXPECT_EQ(summary.completed, 1);
  EXPECT_EQ(summary.failed, 2);
  EXPECT_EQ(summary.cancelled, 1);
  EXPECT_EQ(summary.output_tokens, 3);
  EXPECT_EQ(summary.received_tokens, 12);
  EXPECT_EQ(summary.failures.at("RESOURCE_EXHAUSTED").count, 2);
  EXPECT_EQ(summary.failures.at("RESOURCE_EXHAUSTED").first_message, "full");
  EXPECT_DOUBLE_EQ(summary.cancel.mean, 0.002);
  EXPECT_EQ(summary.peak_concurrency, 4);
}

TEST(SummaryTest, GoodputNeedsEveryBoundKept) {
  const auto good = [](absl::optional<double> ttft, absl::optional<double> tpot, absl::optional<double> e2el) {
    return SummarizeRun({SomeRecord()}, {ttft, tpot, e2el}, {}).request_goodput * 4.5;
  };
  EXPECT_DOUBLE_EQ(good(1000, 1000, 3500), 1);
  EXPECT_DOUBLE_EQ(good(999, 1000, 3500), 0);
  EXPECT_DOUBLE_EQ(good(1000, 999, 3500), 0);
  EXPECT_DOUBLE_EQ(good(1000, 1000, 3499), 0);
  EXPECT_DOUBLE_EQ(good(1000, absl::nullopt, absl::nullopt), 1);
}

TEST(SummaryTest, ARunWithNothingInItIsAllZero) {
  const Summary summary = SummarizeRun({}, {}, {99});
  EXPECT_EQ(summary.request_throughput, 0);
  EXPECT_EQ(summary.peak_concurrency, 0);
  EXPECT_EQ(summary.ttft.percentiles[0], 0);
}

TEST(ServerMetricsTest, AHistogramsGrowthIsOverAllItsLabels) {
  const MetricSamples before = ParseMetrics(
      "# HELP h x\n# TYPE h histogram\n"
      "h_bucket{phase=\"decode\",le=\"0.001\"} 2\nh_bucket{phase=\"decode\",le=\"+Inf\"} 2\n"
      "h_sum{phase=\"decode\"} 0.001\nh_count{phase=\"decode\"} 2\nh_counter 5\n");
  const MetricSamples after = ParseMetrics(
      "h_bucket{phase=\"decode\",le=\"0.001\"} 5\nh_bucket{phase=\"decode\",le=\"+Inf\"} 6\n"
      "h_sum{phase=\"decode\"} 0.401\nh_count{phase=\"decode\"} 6\n"
      "h_bucket{phase=\"queued\",le=\"0.001\"} 4\nh_bucket{phase=\"queued\",le=\"+Inf\"} 4\n"
      "h_sum{phase=\"queued\"} 0\nh_count{phase=\"queued\"} 4\nh_counter 9\n");
  const HistogramGrowth growth = GrowthOfHistogram(before, after, "h");
  EXPECT_EQ(growth.count, 8);
  EXPECT_DOUBLE_EQ(growth.mean(), 0.05);
  EXPECT_EQ(growth.UpperBound(0.5), 0.001);
  EXPECT_EQ(growth.UpperBound(0.99), std::numeric_limits<double>::infinity());
  EXPECT_EQ(GrowthOf(before, after, "h_counter"), 4);
}

TEST(ServerMetricsTest, AnAddressThatDoesNotAnswerIsNamed) {
  EXPECT_EQ(FetchMetrics("127.0.0.1:9").status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status status = FetchMetrics("http://127.0.0.1:1/metrics").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(status.message()).find("http://127.0.0.1:1/metrics"), std::string::npos);
}

}  // namespace
}  // namespace spotlight::client::bench
