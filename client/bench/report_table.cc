#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/report.h"

namespace spotlight::client::bench {
namespace {

constexpr int kWidth = 64;
constexpr int kLabelWidth = 46;

class Table {
 public:
  void Rule(absl::string_view title, char line) {
    const int around = std::max<int>(2, kWidth - static_cast<int>(title.size()) - 2);
    const std::string left(around / 2, line), right(around - around / 2, line);
    absl::StrAppend(&text_, title.empty() ? std::string(kWidth, line) : absl::StrCat(left, " ", title, " ", right),
                    "\n");
  }
  void Row(absl::string_view label, absl::string_view value) {
    absl::StrAppendFormat(&text_, "%-*s %s\n", kLabelWidth, absl::StrCat(label, ":"), value);
  }
  void Row(absl::string_view label, double value) { Row(label, absl::StrFormat("%.2f", value)); }
  void Row(absl::string_view label, int64_t value) { Row(label, absl::StrCat(value)); }
  void Latency(absl::string_view title, absl::string_view name, const Statistics& seconds,
               const std::vector<double>& percentiles) {
    Rule(title, '-');
    Row(absl::StrCat("Mean ", name, " (ms)"), seconds.mean * 1e3);
    for (size_t i = 0; i < percentiles.size(); ++i) {
      Row(absl::StrCat("P", percentiles[i], " ", name, " (ms)"), seconds.percentiles[i] * 1e3);
    }
    Row(absl::StrCat("Max ", name, " (ms)"), seconds.max * 1e3);
  }
  std::string text() const { return text_; }

 private:
  std::string text_;
};

void AddTraffic(const BenchOptions& options, const BenchResult& result, Table* table) {
  const Summary& summary = result.summary;
  table->Row("Completed requests", summary.completed);
  table->Row("Failed requests", summary.failed);
  if (options.workload.cancel_share > 0) table->Row("Cancelled by this client", summary.cancelled);
  if (options.load.max_concurrency > 0) table->Row("Maximum concurrency", int64_t{options.load.max_concurrency});
  if (options.load.is_open_loop()) table->Row("Request rate meant (req/s)", options.load.request_rate);
  table->Row("Duration (s)", summary.duration);
  table->Row("Input tokens", summary.prompt_tokens);
  table->Row("Output tokens", summary.output_tokens);
  table->Row("Request throughput (req/s)", summary.request_throughput);
  if (options.goodput.any()) table->Row("Request goodput (req/s)", summary.request_goodput);
  table->Row("Output throughput (tok/s)", summary.output_throughput);
  table->Row("Peak output throughput (tok/s)", summary.peak_output_throughput);
  table->Row("Total throughput (tok/s)", summary.total_token_throughput);
  table->Row("Peak concurrent requests", summary.peak_concurrency);
  if (summary.messages > 0) {
    table->Row("Tokens per message", static_cast<double>(summary.output_tokens) / summary.messages);
  }
  table->Row("Client CPU (us per token)", result.client_cpu_us_per_token());
}

void AddLatencies(const BenchOptions& options, const Summary& summary, Table* table) {
  const bool open = options.load.is_open_loop();
  const std::vector<double>& percentiles = options.percentiles;
  table->Latency(open ? "Time to First Token, from the intended send" : "Time to First Token", "TTFT", summary.ttft,
                 percentiles);
  table->Latency("Time per Output Token (excl. 1st token)", "TPOT", summary.tpot, percentiles);
  table->Latency("Inter-token Latency", "ITL", summary.itl, percentiles);
  table->Latency(open ? "End-to-end Latency, from the intended send" : "End-to-end Latency", "E2EL", summary.e2el,
                 percentiles);
  if (open) {
    table->Latency("Time to First Token, from the send", "TTFT", summary.ttft_from_send, percentiles);
    table->Latency("Sent after it was intended", "delay", summary.queue, percentiles);
  }
}

void AddServer(const BenchResult& result, Table* table) {
  const auto& [before, after] = *result.server;
  const auto growth = [&](absl::string_view name) { return static_cast<int64_t>(GrowthOf(before, after, name)); };
  table->Rule("As the server tells", '-');
  const HistogramGrowth release = GrowthOfHistogram(before, after, "spotlight_cancel_release_seconds");
  table->Row("Cancels released", static_cast<int64_t>(release.count));
  if (release.count > 0) {
    table->Row("Mean cancel release (ms)", release.mean() * 1e3);
    table->Row("P99 cancel release (ms)", absl::StrFormat("at most %g", release.UpperBound(0.99) * 1e3));
  }
  table->Row("Tokens generated", growth("spotlight_generation_tokens_total"));
  table->Row("Tokens generated for nobody", growth("spotlight_wasted_tokens_total"));
  table->Row("Preemptions", growth("spotlight_preemptions_total"));
  table->Row("Requests refused", growth("spotlight_requests_rejected_total"));
}

}  // namespace

std::string FormatTable(const BenchOptions& options, const BenchResult& result) {
  const Summary& summary = result.summary;
  Table table;
  table.Rule("Serving Benchmark Result", '=');
  AddTraffic(options, result, &table);
  if (summary.completed > 0) AddLatencies(options, summary, &table);
  if (summary.cancelled > 0) {
    table.Latency("Cancel to the call's end, at the client", "cancel", summary.cancel, options.percentiles);
  }
  for (const auto& [code, failures] : summary.failures) {
    table.Rule(absl::StrCat("Failed: ", code), '-');
    const Statistics seconds = Summarize(failures.seconds, {99});
    table.Row("Requests", failures.count);
    table.Row("Median time to the status (ms)", seconds.median * 1e3);
    table.Row("P99 time to the status (ms)", seconds.percentiles[0] * 1e3);
    table.Row("First", failures.first_message);
  }
  if (result.server.has_value()) AddServer(result, &table);
  table.Rule("", '=');
  return table.text();
}

}  // namespace spotlight::client::bench
