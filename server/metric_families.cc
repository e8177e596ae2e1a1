#include "server/metric_families.h"

namespace spotlight::server {
namespace {

using Buckets = std::vector<double>;

constexpr MetricType kCounter = MetricType::kCounter;
constexpr MetricType kGauge = MetricType::kGauge;
constexpr MetricType kHistogram = MetricType::kHistogram;

Buckets PowersOfTwo() {
  Buckets bounds;
  for (double bound = 1; bound <= 1 << 20; bound *= 2) bounds.push_back(bound);
  return bounds;
}

std::vector<MetricFamily>* BuildTable() {
  const Buckets powers_of_two = PowersOfTwo();
  const Buckets first_token = {.001, .0025, .005, .01, .02, .04, .06, .08, .1, .15, .2, .25,
                               .5,   .75,   1,    2.5, 5,   10,  20,  40,  80, 160, 320};
  const Buckets inter_token = {.001, .002, .003, .004, .005, .006, .008, .01, .0125, .015, .02, .025,
                               .03,  .04,  .05,  .075, .1,   .15,  .2,   .3,  .5,    1,    2.5, 10};
  const Buckets request = {.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800};
  const Buckets release = {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5};
  const Buckets step = {.0005, .001, .002, .003, .004, .005, .006, .008, .01, .0125, .015, .02, .025,
                        .03,   .04,  .05,  .075, .1,   .15,  .2,   .25,  .3,  .5,    1,    2.5, 10};
  const Buckets retrieval = {5e-6, 1e-5, 2e-5, 4e-5, 8e-5, 1.6e-4, 3.2e-4, 6.4e-4, 1.3e-3, 2.6e-3, 5e-3, 1e-2, 5e-2};
  const Buckets quality_ratio = {.1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .99, 1};
  const Buckets output_error = {.01, .02, .03, .05, .075, .1, .15, .2, .3, .5, .75, 1};
  const Buckets selected_ratio = {.005, .01, .015, .02, .03, .05, .1, .2, .5, 1};

  return new std::vector<MetricFamily>{
      {"spotlight_requests_running",
       kGauge,
       "Requests (of several samples: samples) that hold a place in the running batch.",
       {},
       {}},
      {"spotlight_requests_waiting",
       kGauge,
       "Requests accepted and not yet scheduled, and of those that are the samples without a place.",
       {},
       {}},
      {"spotlight_requests_waiting_tokens", kGauge, "Prompt tokens of the waiting requests, together.", {}, {}},
      {"spotlight_kv_cache_usage_ratio", kGauge, "Pages of the KV cache in use, 0 to 1.", {}, {}},
      {"spotlight_kv_cache_bytes", kGauge, "Bytes that the KV cache holds at capacity, keys and values.", {}, {}},
      {"spotlight_hash_code_bytes", kGauge, "Bytes that the key codes beside the KV cache hold at capacity.", {}, {}},
      {"spotlight_cache_config_info",
       kGauge,
       "1; the cache's shape is in the labels (page_size in tokens).",
       {"page_size", "num_pages", "hash_bits"},
       {}},

      {"spotlight_requests_total", kCounter, "Calls that ended.", {"method", "grpc_code", "finish_reason"}, {}},
      {"spotlight_requests_rejected_total",
       kCounter,
       "Generation calls refused before any work, and of all calls those without a right (auth) or over their caller's "
       "limits; deadline: could not end by it, at the door or in the queue; kv_capacity: larger than the whole cache.",
       {"reason"},
       {}},
      {"spotlight_requests_cancelled_total",
       kCounter,
       "Requests ended by their client, an Abort or a deadline, by where they were.",
       {"phase"},
       {}},
      {"spotlight_credential_reloads_total",
       kCounter,
       "Changed files of certificates or tokens, taken or refused; what was loaded before goes on after a refusal.",
       {"files", "outcome"},
       {}},
      {"spotlight_certificate_expiry_timestamp_seconds",
       kGauge,
       "When the served certificate expires, in Unix time; absent without TLS.",
       {},
       {}},
      {"spotlight_cancel_release_seconds",
       kHistogram,
       "From a cancel or a deadline to the request's place and pages free, by where it was.",
       {"phase"},
       release},
      {"spotlight_prompt_tokens_total", kCounter, "Prompt tokens of requests that were scheduled.", {}, {}},
      {"spotlight_generation_tokens_total", kCounter, "Tokens generated.", {}, {}},
      {"spotlight_cached_prompt_tokens_total", kCounter, "Prompt tokens taken from the prefix cache.", {}, {}},
      {"spotlight_wasted_tokens_total", kCounter, "Tokens generated after their client left.", {}, {}},
      {"spotlight_prefix_cache_queries_tokens_total", kCounter, "Tokens looked up in the prefix cache.", {}, {}},
      {"spotlight_prefix_cache_hits_tokens_total", kCounter, "Tokens found in the prefix cache.", {}, {}},
      {"spotlight_preemptions_total", kCounter, "Sequences put back to be computed again for want of pages.", {}, {}},

      {"spotlight_time_to_first_token_seconds", kHistogram, "Accepted to first token.", {}, first_token},
      {"spotlight_inter_token_latency_seconds", kHistogram, "Between neighbouring tokens.", {}, inter_token},
      {"spotlight_time_per_output_token_seconds",
       kHistogram,
       "A request's decode time over its tokens after the first.",
       {},
       inter_token},
      {"spotlight_request_e2e_seconds", kHistogram, "Accepted to finished.", {}, request},
      {"spotlight_request_queue_seconds", kHistogram, "Accepted to first scheduled.", {}, request},
      {"spotlight_request_prefill_seconds", kHistogram, "First scheduled to first token.", {}, request},
      {"spotlight_request_decode_seconds", kHistogram, "First token to last.", {}, request},
      {"spotlight_request_prompt_tokens", kHistogram, "Prompt tokens of a request.", {}, powers_of_two},
      {"spotlight_request_generation_tokens", kHistogram, "Tokens that a request generated.", {}, powers_of_two},

      {"spotlight_context_tokens", kHistogram, "Cached tokens of each decode row of a step.", {}, powers_of_two},
      {"spotlight_batch_size", kHistogram, "Decode rows of a step.", {}, powers_of_two},
      {"spotlight_step_tokens", kHistogram, "Tokens computed in a step, prefill and decode.", {}, powers_of_two},
      {"spotlight_step_seconds", kHistogram, "A step of the engine.", {"phase", "cuda_graph"}, step},
      {"spotlight_graph_captures_total",
       kCounter,
       "CUDA graphs captured at the third step of their kind (those captured at start are not counted); failed: such "
       "steps are enqueued kernel by kernel from then on, the log says why.",
       {"result"},
       {}},

      {"spotlight_retrieval_seconds",
       kHistogram,
       "A stage of retrieval, summed over a step's hashed layers; total: from encoding to the outputs. On a GPU by the "
       "device's clock. Sampled: one sparse step in several is timed.",
       {"stage"},
       retrieval},
      {"spotlight_retrieval_candidate_tokens",
       kHistogram,
       "Tokens that compete, of every sparse row (not sampled).",
       {},
       powers_of_two},
      {"spotlight_retrieval_selected_tokens",
       kHistogram,
       "Tokens to select, of every sparse row (not sampled).",
       {},
       powers_of_two},
      {"spotlight_retrieval_selected_ratio",
       kHistogram,
       "Tokens to select over context tokens, of every sparse row (not sampled).",
       {},
       selected_ratio},
      {"spotlight_retrieval_kv_read_bytes_total",
       kCounter,
       "Keys, values and codes that decode steps read, all layers: computed from each row's selection (not sampled).",
       {},
       {}},
      {"spotlight_retrieval_kv_dense_equivalent_bytes_total",
       kCounter,
       "What dense attention would have read in the same steps (not sampled).",
       {},
       {}},
      // No label for the layer: it would multiply four histograms by the model's depth, and samples come seldom.
      {"spotlight_retrieval_recall_ratio",
       kHistogram,
       "Share of the best possible selection that was selected. Sampled: of one row and layer in one sparse step of "
       "--quality-sample-every, like the next three.",
       {},
       quality_ratio},
      {"spotlight_retrieval_iou_ratio",
       kHistogram,
       "Intersection over union of the selection and the best possible one. Sampled: as retrieval_recall_ratio.",
       {},
       quality_ratio},
      {"spotlight_retrieval_attention_mass_ratio",
       kHistogram,
       "Share of the softmax weight that was attended to. Sampled: as retrieval_recall_ratio.",
       {},
       quality_ratio},
      {"spotlight_retrieval_output_relative_error",
       kHistogram,
       "Relative error of the attention's output. Sampled: as retrieval_recall_ratio.",
       {},
       output_error},
      {"spotlight_retrieval_samples_total",
       kCounter,
       "Measurements of quality made; low: attention mass under --quality-floor (not sampled).",
       {"outcome"},
       {}},
      {"spotlight_retrieval_fallbacks_total",
       kCounter,
       "Times that the quality guardrail served a request with a larger budget or dense from then on (not sampled).",
       {"action"},
       {}},
      {"spotlight_dense_steps_total", kCounter, "Decode rows that attended to everything, and why.", {"reason"}, {}},

      {"spotlight_trace_spans_total",
       kCounter,
       "Spans of --otlp-endpoint; failed: the collector did not take them; dropped: too many were waiting for "
       "it; limited: over --trace-parents-per-second.",
       {"outcome"},
       {}},

      {"spotlight_log_lines_dropped_total",
       kCounter,
       "Lines of the request log (standard output) and of the program's log (standard error) that could not be "
       "written.",
       {"log"},
       {}},

      {"spotlight_build_info", kGauge, "1; what runs is in the labels.", {"version", "libtorch"}, {}},
      {"spotlight_model_load_seconds", kGauge, "Start of loading to ready; 0 before.", {}, {}},
      {"spotlight_health_status", kGauge, "1 when requests are served, else 0.", {}, {}},
  };
}

}  // namespace

absl::Span<const MetricFamily> MetricFamilies() {
  static const auto* const table = BuildTable();
  return *table;
}

}  // namespace spotlight::server
