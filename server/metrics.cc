#include "server/metrics.h"

#include <array>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "engine/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/grpc_status.h"
#include "server/metric_registry.h"
#include "server/process_metrics.h"
#include "server/prometheus_text.h"
#include "server/rejection.h"
#include "version.h"

namespace spotlight::server {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

// Labels in the order of the enums that index them.
constexpr std::array<const char*, 6> kFinishReasons = {"none", "stop", "length", "cancelled", "deadline", "aborted"};
constexpr std::array<const char*, 3> kPhases = {"queued", "prefill", "decode"};
constexpr std::array<const char*, 3> kStepPhases = {"prefill", "decode", "mixed"};
constexpr std::array<const char*, 2> kCaptureResults = {"ok", "failed"};
constexpr std::array<const char*, 5> kStages = {"encode", "score", "select", "attend", "total"};
constexpr std::array<const char*, 5> kDenseReasons = {"short_context", "layer_policy", "request_override", "guardrail",
                                                      "no_hash"};
constexpr std::array<const char*, 3> kQualityOutcomes = {"good", "low", "not_finite"};
constexpr std::array<const char*, 2> kFallbackActions = {"dense", "budget"};
constexpr std::array<const char*, 4> kSpanOutcomes = {"exported", "failed", "dropped", "limited"};
constexpr std::array<const char*, 2> kLogs = {"requests", "program"};

const char* FinishReasonLabel(const absl::optional<engine::Finish>& finish) {
  if (!finish.has_value()) return kFinishReasons[0];
  const auto index = static_cast<size_t>(finish->reason);
  return index < kFinishReasons.size() ? kFinishReasons[index] : "error";
}

bool IsCancelled(engine::FinishReason reason) {
  return reason == engine::FinishReason::kCancelled || reason == engine::FinishReason::kDeadline ||
         reason == engine::FinishReason::kAborted;
}

template <size_t n>
std::array<Counter*, n> LabelledCounters(Family<Counter>& family, const char* label,
                                         const std::array<const char*, n>& values) {
  std::array<Counter*, n> counters;
  for (size_t i = 0; i < n; ++i) counters[i] = &family.Add({{label, values[i]}});
  return counters;
}

}  // namespace

struct Metrics::Handles {
  Handles(const std::string& model_name, const HistogramBuckets& buckets) : registry(model_name, buckets) {}

  MetricRegistry registry;
  ProcessMetrics process;

  Gauge& running = registry.AddGauge("spotlight_requests_running");
  Gauge& waiting = registry.AddGauge("spotlight_requests_waiting");
  Gauge& waiting_tokens = registry.AddGauge("spotlight_requests_waiting_tokens");
  Gauge& kv_usage = registry.AddGauge("spotlight_kv_cache_usage_ratio");
  Gauge& kv_bytes = registry.AddGauge("spotlight_kv_cache_bytes");
  Gauge& code_bytes = registry.AddGauge("spotlight_hash_code_bytes");
  Family<Gauge>& cache_config = registry.GaugeFamily("spotlight_cache_config_info");

  Family<Counter>& requests = registry.CounterFamily("spotlight_requests_total");
  Family<Counter>& rejected = registry.CounterFamily("spotlight_requests_rejected_total");
  std::array<Counter*, 3> cancelled =
      LabelledCounters(registry.CounterFamily("spotlight_requests_cancelled_total"), "phase", kPhases);
  std::array<Histogram*, 3> cancel_release = ReleaseHistograms();
  Counter& prompt_tokens = registry.AddCounter("spotlight_prompt_tokens_total");
  Counter& generation_tokens = registry.AddCounter("spotlight_generation_tokens_total");
  Counter& cached_prompt_tokens = registry.AddCounter("spotlight_cached_prompt_tokens_total");
  Counter& wasted_tokens = registry.AddCounter("spotlight_wasted_tokens_total");
  Counter& prefix_queries = registry.AddCounter("spotlight_prefix_cache_queries_tokens_total");
  Counter& prefix_hits = registry.AddCounter("spotlight_prefix_cache_hits_tokens_total");
  Counter& preemptions = registry.AddCounter("spotlight_preemptions_total");

  Histogram& time_to_first_token = registry.AddHistogram("spotlight_time_to_first_token_seconds");
  Histogram& inter_token = registry.AddHistogram("spotlight_inter_token_latency_seconds");
  Histogram& time_per_output_token = registry.AddHistogram("spotlight_time_per_output_token_seconds");
  Histogram& e2e = registry.AddHistogram("spotlight_request_e2e_seconds");
  Histogram& queue = registry.AddHistogram("spotlight_request_queue_seconds");
  Histogram& prefill = registry.AddHistogram("spotlight_request_prefill_seconds");
  Histogram& decode = registry.AddHistogram("spotlight_request_decode_seconds");
  Histogram& request_prompt_tokens = registry.AddHistogram("spotlight_request_prompt_tokens");
  Histogram& request_generation_tokens = registry.AddHistogram("spotlight_request_generation_tokens");

  Histogram& context_tokens = registry.AddHistogram("spotlight_context_tokens");
  Histogram& batch_size = registry.AddHistogram("spotlight_batch_size");
  Histogram& step_tokens = registry.AddHistogram("spotlight_step_tokens");
  std::array<std::array<Histogram*, 2>, 3> step_seconds = StepHistograms();
  std::array<Counter*, 2> graph_captures =
      LabelledCounters(registry.CounterFamily("spotlight_graph_captures_total"), "result", kCaptureResults);
  Mutex capture_mutex;
  absl::Status capture_failure ABSL_GUARDED_BY(capture_mutex);  // the latest that was not taken

  std::array<Histogram*, 5> retrieval_seconds = StageHistograms();
  Histogram& candidate_tokens = registry.AddHistogram("spotlight_retrieval_candidate_tokens");
  Histogram& selected_tokens = registry.AddHistogram("spotlight_retrieval_selected_tokens");
  Histogram& selected_ratio = registry.AddHistogram("spotlight_retrieval_selected_ratio");
  Counter& kv_read_bytes = registry.AddCounter("spotlight_retrieval_kv_read_bytes_total");
  Counter& kv_dense_bytes = registry.AddCounter("spotlight_retrieval_kv_dense_equivalent_bytes_total");
  std::array<Counter*, 5> dense_steps =
      LabelledCounters(registry.CounterFamily("spotlight_dense_steps_total"), "reason", kDenseReasons);

  Histogram& recall = registry.AddHistogram("spotlight_retrieval_recall_ratio");
  Histogram& iou = registry.AddHistogram("spotlight_retrieval_iou_ratio");
  Histogram& attention_mass = registry.AddHistogram("spotlight_retrieval_attention_mass_ratio");
  Histogram& output_error = registry.AddHistogram("spotlight_retrieval_output_relative_error");
  std::array<Counter*, 3> quality_samples =
      LabelledCounters(registry.CounterFamily("spotlight_retrieval_samples_total"), "outcome", kQualityOutcomes);
  std::array<Counter*, 2> fallbacks =
      LabelledCounters(registry.CounterFamily("spotlight_retrieval_fallbacks_total"), "action", kFallbackActions);

  Family<Gauge>& build_info = registry.GaugeFamily("spotlight_build_info");
  Gauge& load_seconds = registry.AddGauge("spotlight_model_load_seconds");
  Gauge& health = registry.AddGauge("spotlight_health_status");
  Family<Gauge>& certificate_expiry = registry.GaugeFamily("spotlight_certificate_expiry_timestamp_seconds");
  Family<Counter>& credential_reloads = registry.CounterFamily("spotlight_credential_reloads_total");
  std::array<Counter*, kSpanOutcomes.size()> spans =
      LabelledCounters(registry.CounterFamily("spotlight_trace_spans_total"), "outcome", kSpanOutcomes);

  Mutex dropped_lines_mutex;  // two scrapes at once would both add what is missing
  std::array<Counter*, 2> dropped_lines ABSL_GUARDED_BY(dropped_lines_mutex) =
      LabelledCounters(registry.CounterFamily("spotlight_log_lines_dropped_total"), "log", kLogs);

  void SetDroppedLines(const DroppedLogLines& dropped) {
    MutexLock lock(&dropped_lines_mutex);
    const std::array<int64_t, 2> totals = {dropped.requests, dropped.program};
    for (size_t i = 0; i < totals.size(); ++i) {
      dropped_lines[i]->Increment(static_cast<double>(totals[i]) - dropped_lines[i]->Value());
    }
  }

  void OnGraphCapture(const absl::Status& capture) {
    graph_captures[capture.ok() ? 0 : 1]->Increment();
    if (capture.ok()) return;
    MutexLock lock(&capture_mutex);
    capture_failure = capture;
  }

  void OnQualitySample(const engine::QualitySample& sample) {
    quality_samples[static_cast<size_t>(sample.outcome)]->Increment();
    if (sample.fallback.has_value()) fallbacks[static_cast<size_t>(*sample.fallback)]->Increment();
    if (sample.outcome == engine::QualityOutcome::kNotFinite) return;
    recall.Observe(sample.measured.recall);
    iou.Observe(sample.measured.iou);
    attention_mass.Observe(sample.measured.attention_mass);
    output_error.Observe(sample.measured.output_error);
  }

 private:
  std::array<std::array<Histogram*, 2>, 3> StepHistograms() {
    std::array<std::array<Histogram*, 2>, 3> histograms;
    for (size_t phase = 0; phase < kStepPhases.size(); ++phase) {
      for (const bool graph : {false, true}) {
        histograms[phase][graph] = &registry.AddHistogram(
            "spotlight_step_seconds", {{"phase", kStepPhases[phase]}, {"cuda_graph", graph ? "true" : "false"}});
      }
    }
    return histograms;
  }
  std::array<Histogram*, 3> ReleaseHistograms() {
    std::array<Histogram*, 3> histograms;
    for (size_t phase = 0; phase < kPhases.size(); ++phase) {
      histograms[phase] = &registry.AddHistogram("spotlight_cancel_release_seconds", {{"phase", kPhases[phase]}});
    }
    return histograms;
  }
  std::array<Histogram*, 5> StageHistograms() {
    std::array<Histogram*, 5> histograms;
    for (size_t stage = 0; stage < kStages.size(); ++stage) {
      histograms[stage] = &registry.AddHistogram("spotlight_retrieval_seconds", {{"stage", kStages[stage]}});
    }
    return histograms;
  }
};

Metrics::Metrics(const std::string& model_name, const HistogramBuckets& buckets)
    : handles_(std::make_unique<Handles>(model_name, buckets)) {
  // A series that appears with its first event hides that event from rate(): known label values start at 0.
  for (const absl::string_view reason : RejectionReasons()) handles_->rejected.Add({{"reason", std::string(reason)}});
  for (const char* files : {"certificate", "tokens"}) {
    for (const char* outcome : {"taken", "refused"}) {
      handles_->credential_reloads.Add({{"files", files}, {"outcome", outcome}});
    }
  }
  for (const char* method : {"Generate", "GenerateStream"}) {
    for (const char* reason : {"stop", "length"}) {
      handles_->requests.Add({{"method", method}, {"grpc_code", "OK"}, {"finish_reason", reason}});
    }
  }
}

Metrics::~Metrics() = default;

void Metrics::OnStep(const engine::StepStats& stats) {
  Handles& h = *handles_;
  for (const engine::CancelRelease& release : stats.cancel_releases) {
    h.cancel_release[static_cast<size_t>(release.phase)]->Observe(release.seconds);
  }
  // A pass that only released cancelled requests ran no step.
  if (stats.num_prefill_tokens + stats.num_decode_rows == 0) return;
  const size_t phase = stats.num_prefill_tokens == 0 ? 1 : stats.num_decode_rows == 0 ? 0 : 2;
  h.step_seconds[phase][stats.cuda_graph]->Observe(stats.step_seconds);
  if (stats.graph_capture.has_value()) h.OnGraphCapture(*stats.graph_capture);
  h.step_tokens.Observe(stats.num_prefill_tokens + stats.num_decode_rows);
  if (stats.num_decode_rows > 0) h.batch_size.Observe(stats.num_decode_rows);
  h.generation_tokens.Increment(stats.num_generated_tokens);
  for (const int32_t context : stats.context_tokens) h.context_tokens.Observe(context);
  for (const double seconds : stats.inter_token_seconds) h.inter_token.Observe(seconds);
  for (const engine::RowRetrieval& row : stats.sparse_rows) {
    h.candidate_tokens.Observe(row.candidate_tokens);
    h.selected_tokens.Observe(row.selected_tokens);
    if (row.context_tokens > 0) h.selected_ratio.Observe(static_cast<double>(row.selected_tokens) / row.context_tokens);
  }
  for (const engine::DenseReason reason : stats.dense_rows) {
    if (reason != engine::DenseReason::kNone) h.dense_steps[static_cast<size_t>(reason) - 1]->Increment();
  }
  h.kv_read_bytes.Increment(stats.kv_read_bytes);
  h.kv_dense_bytes.Increment(stats.kv_dense_equivalent_bytes);
  if (stats.retrieval.has_value()) {
    const engine::RetrievalSeconds& seconds = *stats.retrieval;
    const std::array<double, 5> stages = {seconds.encode, seconds.score, seconds.select, seconds.attend, seconds.total};
    for (size_t i = 0; i < stages.size(); ++i) h.retrieval_seconds[i]->Observe(stages[i]);
  }
  if (stats.quality.has_value()) h.OnQualitySample(*stats.quality);
  h.preemptions.Increment(stats.num_preempted);
  h.prefix_queries.Increment(stats.num_prefix_query_tokens);
  h.prefix_hits.Increment(stats.num_prefix_hit_tokens);
}

void Metrics::OnRequestEnd(const engine::RequestStats& stats) {
  Handles& h = *handles_;
  const engine::Finish& finish = stats.finish;
  // A server that stops ends requests as well, UNAVAILABLE.
  const bool stopped = absl::IsUnavailable(finish.status);
  if (IsCancelled(finish.reason) && !stopped) h.cancelled[static_cast<size_t>(stats.phase)]->Increment();
  h.wasted_tokens.Increment(stats.wasted_tokens);
  const bool queued = stats.phase == engine::RequestPhase::kQueued;
  // Refused once its prompt was encoded: no work was done, and its milliseconds would flatter the latencies.
  if (queued && finish.reason == engine::FinishReason::kError) return;
  h.e2e.Observe(stats.end_to_end_seconds);
  if (queued) return;  // never scheduled: nothing below was measured

  h.prompt_tokens.Increment(finish.usage.prompt_tokens);
  h.cached_prompt_tokens.Increment(finish.usage.cached_prompt_tokens);
  h.request_prompt_tokens.Observe(finish.usage.prompt_tokens);
  h.queue.Observe(finish.timings.queue);
  const int32_t num_generated = finish.usage.completion_tokens;
  if (num_generated == 0) return;
  h.request_generation_tokens.Observe(num_generated);
  h.prefill.Observe(finish.timings.prefill);
  h.time_to_first_token.Observe(finish.timings.time_to_first_token);
  h.decode.Observe(finish.timings.decode);
  // Of the first sample, as all times.
  if (finish.timings.mean_inter_token > 0) h.time_per_output_token.Observe(finish.timings.mean_inter_token);
}

void Metrics::OnCallEnd(const CallRecord& record, bool draining) {
  Handles& h = *handles_;
  const auto code = static_cast<grpc::StatusCode>(record.status.code());
  h.requests
      .Add({{"method", record.method},
            {"grpc_code", std::string(CodeName(code))},
            {"finish_reason", FinishReasonLabel(record.finish)}})
      .Increment();
  const absl::string_view reason = RejectionReason(record, draining);
  if (!reason.empty()) h.rejected.Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::OnLoaded(const engine::ModelInfo& model, const engine::EngineOptions& options,
                       const std::string& libtorch_version, double load_seconds) {
  Handles& h = *handles_;
  const int32_t num_pages = options.scheduler.num_pages;
  const auto num_tokens = static_cast<double>(num_pages) * kernels::kPageTokens;
  const kernels::DType dtype = model.dtype == "fp32" ? kernels::DType::kF32 : kernels::DType::kBF16;
  const size_t token_bytes = model.kv_cache_dtype == "fp8"
                                 ? kernels::E4m3KvBytesPerToken(model.num_kv_heads, model.head_dim)
                                 : kernels::KvBytesPerToken(model.num_kv_heads, model.head_dim, dtype);
  h.kv_bytes.Set(num_tokens * model.num_layers * token_bytes);
  const int32_t hash_bits = model.hash.present ? model.hash.hash_bits : 0;
  if (hash_bits > 0) {
    h.code_bytes.Set(num_tokens * model.hash.layers.size() *
                     kernels::CodeBytesPerToken(model.num_kv_heads, hash_bits / 32));
  }
  h.cache_config
      .Add({{"page_size", std::to_string(kernels::kPageTokens)},
            {"num_pages", std::to_string(num_pages)},
            {"hash_bits", std::to_string(hash_bits)}})
      .Set(1);
  h.build_info.Add({{"version", kVersion}, {"libtorch", libtorch_version}}).Set(1);
  h.load_seconds.Set(load_seconds);
}

void Metrics::SetServing(bool serving) {
  handles_->health.Set(serving ? 1 : 0);
}

void Metrics::SetCertificateExpiry(double unix_seconds) {
  handles_->certificate_expiry.Add({}).Set(unix_seconds);
}

void Metrics::OnCredentialReload(const std::string& files, bool taken) {
  handles_->credential_reloads.Add({{"files", files}, {"outcome", taken ? "taken" : "refused"}}).Increment();
}

void Metrics::OnSpans(SpanOutcome outcome, size_t num_spans) {
  handles_->spans[static_cast<size_t>(outcome)]->Increment(static_cast<double>(num_spans));
}

absl::Status Metrics::TakeCaptureFailure() {
  MutexLock lock(&handles_->capture_mutex);
  return std::exchange(handles_->capture_failure, absl::OkStatus());
}

std::string Metrics::Text(const absl::optional<engine::EngineLoad>& load, const DroppedLogLines& dropped) {
  Handles& h = *handles_;
  h.SetDroppedLines(dropped);
  if (load.has_value()) {
    h.running.Set(load->num_running);
    h.waiting.Set(load->num_waiting);
    h.waiting_tokens.Set(load->num_waiting_tokens);
    h.kv_usage.Set(load->num_pages > 0 ? 1.0 - static_cast<double>(load->num_free_pages) / load->num_pages : 0);
  }
  std::vector<prometheus::MetricFamily> families = h.registry.Collect();
  for (prometheus::MetricFamily& family : h.process.Collect()) families.push_back(std::move(family));
  return PrometheusText(families);
}

}  // namespace spotlight::server
