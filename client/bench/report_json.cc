#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/bench/report.h"
#include "nlohmann/json.hpp"

namespace spotlight::client::bench {
namespace {

using Json = nlohmann::ordered_json;

void AddLatency(const std::string& name, const Statistics& seconds, const std::vector<double>& percentiles,
                Json* json) {
  (*json)["mean_" + name + "_ms"] = seconds.mean * 1e3;
  (*json)["median_" + name + "_ms"] = seconds.median * 1e3;
  (*json)["std_" + name + "_ms"] = seconds.std * 1e3;
  (*json)["max_" + name + "_ms"] = seconds.max * 1e3;
  for (size_t i = 0; i < percentiles.size(); ++i) {
    (*json)[absl::StrCat("p", percentiles[i], "_", name, "_ms")] = seconds.percentiles[i] * 1e3;
  }
}

void AddTraffic(const BenchOptions& options, const BenchResult& result, Json* json) {
  const LoadOptions& load = options.load;
  (*json)["date"] = result.date;
  (*json)["endpoint_type"] = "spotlight-grpc";
  (*json)["backend"] = "spotlight-grpc";
  (*json)["label"] = options.label.empty() ? Json(nullptr) : Json(options.label);
  (*json)["model_id"] = result.model_id;
  (*json)["tokenizer_id"] = result.model_id;
  (*json)["num_prompts"] = result.records.size();
  for (const auto& [key, value] : options.metadata) (*json)[key] = value;
  (*json)["request_rate"] = load.is_open_loop() ? Json(load.request_rate) : Json("inf");
  (*json)["burstiness"] = load.burstiness;
  (*json)["max_concurrency"] = load.max_concurrency > 0 ? Json(load.max_concurrency) : Json(nullptr);
  (*json)["latency_origin"] = load.is_open_loop() ? "intended_send" : "send";
}

void AddCounts(const BenchOptions& options, const BenchResult& result, Json* json) {
  const Summary& summary = result.summary;
  (*json)["duration"] = summary.duration;
  (*json)["completed"] = summary.completed;
  (*json)["failed"] = summary.failed;
  (*json)["cancelled"] = summary.cancelled;
  (*json)["total_input_tokens"] = summary.prompt_tokens;
  (*json)["total_output_tokens"] = summary.output_tokens;
  (*json)["request_throughput"] = summary.request_throughput;
  (*json)["request_goodput"] = options.goodput.any() ? Json(summary.request_goodput) : Json(nullptr);
  (*json)["output_throughput"] = summary.output_throughput;
  (*json)["total_token_throughput"] = summary.total_token_throughput;
  (*json)["max_output_tokens_per_s"] = summary.peak_output_throughput;
  (*json)["max_concurrent_requests"] = summary.peak_concurrency;
  (*json)["output_messages"] = summary.messages;
  (*json)["client_cpu_seconds"] = result.client_cpu_seconds;
  (*json)["client_cpu_us_per_token"] = result.client_cpu_us_per_token();
}

void AddFailures(const Summary& summary, Json* json) {
  Json by_status = Json::object();
  for (const auto& [code, failures] : summary.failures) {
    const Statistics seconds = Summarize(failures.seconds, {99});
    by_status[code] = {{"count", failures.count},
                       {"first_message", failures.first_message},
                       {"median_ms", seconds.median * 1e3},
                       {"p99_ms", seconds.percentiles[0] * 1e3},
                       {"max_ms", seconds.max * 1e3}};
  }
  (*json)["errors_by_status"] = std::move(by_status);
}

void AddServer(const ServerReadings& server, Json* json) {
  const HistogramGrowth release = GrowthOfHistogram(server.before, server.after, "spotlight_cancel_release_seconds");
  (*json)["server_cancel_releases"] = release.count;
  (*json)["server_mean_cancel_release_ms"] = release.mean() * 1e3;
  // Infinite where the last bucket holds it, which JSON writes as null.
  (*json)["server_p50_cancel_release_ms_at_most"] = release.UpperBound(0.5) * 1e3;
  (*json)["server_p99_cancel_release_ms_at_most"] = release.UpperBound(0.99) * 1e3;
  for (const char* name : {"generation_tokens", "wasted_tokens", "preemptions", "requests_rejected"}) {
    (*json)[absl::StrCat("server_", name)] =
        GrowthOf(server.before, server.after, absl::StrCat("spotlight_", name, "_total"));
  }
}

void AddDetails(const std::vector<RequestRecord>& records, Json* json) {
  for (const char* name : {"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times",
                           "errors", "cancelled_requests"}) {
    (*json)[name] = Json::array();
  }
  for (const RequestRecord& record : records) {
    (*json)["input_lens"].push_back(record.prompt_tokens);
    (*json)["output_lens"].push_back(record.output_tokens);
    (*json)["ttfts"].push_back(TtftOf(record));
    (*json)["itls"].push_back(record.gaps);
    (*json)["latencies"].push_back(E2elOf(record));
    (*json)["start_times"].push_back(record.sent);
    (*json)["queue_times"].push_back(record.sent - record.intended);
    (*json)["errors"].push_back(record.message);
    (*json)["cancelled_requests"].push_back(record.cancelled);
  }
}

}  // namespace

std::string FormatJson(const BenchOptions& options, const BenchResult& result) {
  const Summary& summary = result.summary;
  Json json;
  AddTraffic(options, result, &json);
  AddCounts(options, result, &json);
  AddLatency("ttft", summary.ttft, options.percentiles, &json);
  AddLatency("tpot", summary.tpot, options.percentiles, &json);
  AddLatency("itl", summary.itl, options.percentiles, &json);
  AddLatency("e2el", summary.e2el, options.percentiles, &json);
  AddLatency("client_queue_time", summary.queue, options.percentiles, &json);
  AddLatency("ttft_from_send", summary.ttft_from_send, options.percentiles, &json);
  AddLatency("e2el_from_send", summary.e2el_from_send, options.percentiles, &json);
  if (summary.cancelled > 0) AddLatency("cancel", summary.cancel, options.percentiles, &json);
  AddFailures(summary, &json);
  if (result.server.has_value()) AddServer(*result.server, &json);
  if (options.save_detailed) AddDetails(result.records, &json);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace spotlight::client::bench
