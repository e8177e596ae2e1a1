// What dashboards, rules and autoscalers of users rely on: every family's name, type, labels, known label values and
// bounds, written out. A change here breaks them; the server's own table is not consulted.
#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "server/metrics.h"

namespace spotlight::server {
namespace {

struct Promise {
  const char* name;  // with "process_", or without "spotlight_"
  const char* type;
  // Labels besides model_name and le, with the values that are there before any request: "phase=queued,prefill". A
  // label without values has those of the model or the call.
  const char* labels = "";
  const char* bounds = "";  // as the exposition writes them
};

constexpr char kFirstToken[] =
    "0.001 0.0025 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.15 0.2 0.25 0.5 0.75 1 2.5 5 10 20 40 80 160 320";
constexpr char kInterToken[] =
    "0.001 0.002 0.003 0.004 0.005 0.006 0.008 0.01 0.0125 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 0.15 0.2 0.3 0.5 "
    "1 2.5 10";
constexpr char kRequest[] = "0.001 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 20 30 60 120 300 600 1800";
constexpr char kPowersOfTwo[] =
    "1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288 1048576";
constexpr char kQuality[] = "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95 0.98 0.99 1";

const std::vector<Promise>& Promises() {
  static const auto* const promises = new std::vector<Promise>{
      {"requests_running", "gauge"},
      {"requests_waiting", "gauge"},
      {"requests_waiting_tokens", "gauge"},
      {"kv_cache_usage_ratio", "gauge"},
      {"kv_cache_bytes", "gauge"},
      {"hash_code_bytes", "gauge"},
      {"cache_config_info", "gauge", "page_size num_pages hash_bits"},
      {"requests_total", "counter",
       "method=Generate,GenerateStream grpc_code=OK,UNAUTHENTICATED finish_reason=none,stop,length"},
      {"requests_rejected_total", "counter",
       "reason=request_reads,queue_requests,queue_tokens,encoding_queue,caller_share,deadline,kv_capacity,auth,caller_"
       "rate,caller_"
       "concurrency,"
       "invalid,loading,draining,unhealthy,other"},
      {"requests_cancelled_total", "counter", "phase=queued,prefill,decode"},
      {"cancel_release_seconds", "histogram", "phase=queued,prefill,decode",
       "0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5"},
      {"credential_reloads_total", "counter", "files=certificate,tokens outcome=taken,refused"},
      {"certificate_expiry_timestamp_seconds", "gauge"},
      {"prompt_tokens_total", "counter"},
      {"generation_tokens_total", "counter"},
      {"cached_prompt_tokens_total", "counter"},
      {"wasted_tokens_total", "counter"},
      {"prefix_cache_queries_tokens_total", "counter"},
      {"prefix_cache_hits_tokens_total", "counter"},
      {"preemptions_total", "counter"},
      {"time_to_first_token_seconds", "histogram", "", kFirstToken},
      {"inter_token_latency_seconds", "histogram", "", kInterToken},
      {"time_per_output_token_seconds", "histogram", "", kInterToken},
      {"request_e2e_seconds", "histogram", "", kRequest},
      {"request_queue_seconds", "histogram", "", kRequest},
      {"request_prefill_seconds", "histogram", "", kRequest},
      {"request_decode_seconds", "histogram", "", kRequest},
      {"request_prompt_tokens", "histogram", "", kPowersOfTwo},
      {"request_generation_tokens", "histogram", "", kPowersOfTwo},
      {"context_tokens", "histogram", "", kPowersOfTwo},
      {"batch_size", "histogram", "", kPowersOfTwo},
      {"step_tokens", "histogram", "", kPowersOfTwo},
      {"step_seconds", "histogram", "phase=prefill,decode,mixed cuda_graph=false,true",
       "0.0005 0.001 0.002 0.003 0.004 0.005 0.006 0.008 0.01 0.0125 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 0.15 "
       "0.2 0.25 0.3 0.5 1 2.5 10"},
      {"graph_captures_total", "counter", "result=ok,failed"},
      {"retrieval_seconds", "histogram", "stage=encode,score,select,attend,total",
       "5e-06 1e-05 2e-05 4e-05 8e-05 0.00016 0.00032 0.00064 0.0013 0.0026 0.005 0.01 0.05"},
      {"retrieval_candidate_tokens", "histogram", "", kPowersOfTwo},
      {"retrieval_selected_tokens", "histogram", "", kPowersOfTwo},
      {"retrieval_selected_ratio", "histogram", "", "0.005 0.01 0.015 0.02 0.03 0.05 0.1 0.2 0.5 1"},
      {"retrieval_kv_read_bytes_total", "counter"},
      {"retrieval_kv_dense_equivalent_bytes_total", "counter"},
      {"retrieval_recall_ratio", "histogram", "", kQuality},
      {"retrieval_iou_ratio", "histogram", "", kQuality},
      {"retrieval_attention_mass_ratio", "histogram", "", kQuality},
      {"retrieval_output_relative_error", "histogram", "", "0.01 0.02 0.03 0.05 0.075 0.1 0.15 0.2 0.3 0.5 0.75 1"},
      {"retrieval_samples_total", "counter", "outcome=good,low,not_finite"},
      {"retrieval_fallbacks_total", "counter", "action=dense,budget"},
      {"dense_steps_total", "counter", "reason=short_context,layer_policy,request_override,guardrail,no_hash"},
      {"trace_spans_total", "counter", "outcome=exported,failed,dropped,limited"},
      {"log_lines_dropped_total", "counter", "log=requests,program"},
      {"build_info", "gauge", "version libtorch"},
      {"model_load_seconds", "gauge"},
      {"health_status", "gauge"},
      {"process_cpu_seconds_total", "counter"},
      {"process_virtual_memory_bytes", "gauge"},
      {"process_resident_memory_bytes", "gauge"},
      {"process_start_time_seconds", "gauge"},
      {"process_open_fds", "gauge"},
      {"process_max_fds", "gauge"},
  };
  return *promises;
}

bool IsOfProcess(const std::string& family) {
  return absl::StartsWith(family, "process_");
}

// One line of the exposition: name{label="value",...} number.
struct Series {
  std::string name;
  std::map<std::string, std::string> labels;
};

Series ParseSeries(const std::string& line) {
  Series series;
  const size_t brace = line.find('{');
  series.name = line.substr(0, std::min(brace, line.find(' ')));
  if (brace == std::string::npos) return series;
  const std::string labels = line.substr(brace + 1, line.rfind('}') - brace - 1);
  for (absl::string_view pair : absl::StrSplit(labels, ',')) {  // no value of this test holds a comma
    const std::vector<std::string> parts = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    series.labels[parts[0]] = parts[1].substr(1, parts[1].size() - 2);
  }
  return series;
}

struct Family {
  std::string type;
  std::vector<Series> series;
};

// A server with a model, a certificate and one refused call.
std::map<std::string, Family> Exposition() {
  Metrics metrics("m");
  metrics.SetCertificateExpiry(1893456000);
  metrics.OnLoaded(engine::ModelInfo(), engine::EngineOptions(), "2.11.0", 1.5);
  CallRecord refused;
  refused.method = "Generate";
  refused.status = absl::UnauthenticatedError("no token");
  metrics.OnCallEnd(refused, /*draining=*/false);
  std::map<std::string, Family> families;
  std::istringstream lines(metrics.Text({}));
  Family* family = nullptr;
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (line[0] != '#') {
      family->series.push_back(ParseSeries(line));
    } else if (words[1] == "TYPE") {
      family = &families[words[2]];
      family->type = words[3];
    }
  }
  return families;
}

std::string WholeName(const Promise& promise) {
  return IsOfProcess(promise.name) ? promise.name : absl::StrCat("spotlight_", promise.name);
}

TEST(MetricTableTest, TheServerExportsThesePromisedFamiliesAndNoOther) {
  std::map<std::string, std::string> promised, exported;
  for (const Promise& promise : Promises()) promised[WholeName(promise)] = promise.type;
  for (const auto& [name, family] : Exposition()) exported[name] = family.type;
  EXPECT_EQ(exported, promised);
}

TEST(MetricTableTest, LabelsAndTheirKnownValuesAreAsPromised) {
  const auto families = Exposition();
  for (const Promise& promise : Promises()) {
    const std::string name = WholeName(promise);
    std::set<std::string> wanted;
    if (!IsOfProcess(name)) wanted.insert("model_name");
    std::map<std::string, std::set<std::string>> values;
    for (const std::string& label : std::vector<std::string>(absl::StrSplit(promise.labels, ' ', absl::SkipEmpty()))) {
      const std::vector<std::string> parts = absl::StrSplit(label, '=');
      wanted.insert(parts[0]);
      if (parts.size() > 1) values[parts[0]] = absl::StrSplit(parts[1], ',');
    }
    ASSERT_EQ(families.count(name), 1u) << name;
    std::map<std::string, std::set<std::string>> found;
    for (const Series& series : families.at(name).series) {
      std::set<std::string> labels;
      for (const auto& [label, value] : series.labels) {
        if (label == "le") continue;
        labels.insert(label);
        if (values.count(label) > 0) found[label].insert(value);
      }
      EXPECT_EQ(labels, wanted) << series.name;
    }
    EXPECT_EQ(found, values) << name;
  }
}

TEST(MetricTableTest, EverySeriesOfAHistogramHasThePromisedBounds) {
  const auto families = Exposition();
  for (const Promise& promise : Promises()) {
    const std::string name = WholeName(promise);
    ASSERT_EQ(families.count(name), 1u) << name;
    std::map<std::string, std::string> bounds;  // by the other labels
    for (const Series& series : families.at(name).series) {
      const auto le = series.labels.find("le");
      if (le == series.labels.end()) continue;
      EXPECT_EQ(series.name, name + "_bucket");
      auto others = series.labels;
      others.erase("le");
      std::string& text = bounds[absl::StrJoin(others, ",", absl::PairFormatter("="))];
      absl::StrAppend(&text, text.empty() ? "" : " ", le->second);
    }
    const bool is_histogram = std::string(promise.type) == "histogram";
    EXPECT_EQ(bounds.empty(), !is_histogram) << name;
    for (const auto& [labels, text] : bounds) EXPECT_EQ(text, absl::StrCat(promise.bounds, " +Inf")) << name << labels;
  }
}

}  // namespace
}  // namespace spotlight::server
