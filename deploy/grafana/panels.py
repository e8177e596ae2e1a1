"""Every panel of every dashboard. In an expression SERIES stands for the chosen namespaces, models and instances, PROCESS
for the chosen namespaces and instances (process metrics know no model), and RATE for Grafana's rate interval."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Panel:
    title: str
    kind: str          # timeseries, stat, heatmap, state-timeline, table
    unit: str          # Grafana's name: s, percentunit, reqps, ...
    queries: dict      # legend -> expression
    description: str   # what it means and when to worry
    thresholds: tuple = ()  # ((value, colour), ...) above the green base
    stacked: bool = False
    width: int = 0     # columns of 24; 0: the row's panels share it
    maximum: float = None
    labels: tuple = field(default=())  # of a table: the columns


def rate(metric, by="", selector="SERIES"):
    return f"sum by ({by}) (rate({metric}{{{selector}}}[RATE]))" if by else f"sum(rate({metric}{{{selector}}}[RATE]))"


def quantile(q, metric, by=""):
    return f"histogram_quantile({q}, {rate(metric + '_bucket', by + ', le' if by else 'le')})"


def quantiles(metric, values=(0.5, 0.95, 0.99)):
    return {f"p{round(100 * q)}": quantile(q, metric) for q in values}


def mean(metric, by=""):
    return f"{rate(metric + '_sum', by)} / {rate(metric + '_count', by)}"


def heat(metric):
    return {"{{le}}": f"sum by (le) (increase({metric}_bucket{{SERIES}}[RATE]))"}


def stat(title, unit, query, description, thresholds=(), **more):
    return Panel(title, "stat", unit, {title: query}, description, thresholds, **more)


def lines(title, unit, queries, description, thresholds=(), **more):
    return Panel(title, "timeseries", unit, queries, description, thresholds, **more)


WARM, HOT = "orange", "red"

OVERVIEW = {
    "At a glance": [
        stat("Serving", "short", "sum(spotlight_health_status{SERIES})", "Servers that are ready for requests."),
        stat("Running", "short", "sum(spotlight_requests_running{SERIES})", "Requests that hold a place in a batch."),
        stat("Waiting", "short", "sum(spotlight_requests_waiting{SERIES})",
             "Requests accepted and not yet scheduled. Steadily above 0: more comes in than is finished.",
             ((4, WARM), (32, HOT))),
        stat("Generated", "tokens/s", rate("spotlight_generation_tokens_total"), "Tokens a second, all servers."),
        stat("First token p95", "s", quantile(0.95, "spotlight_time_to_first_token_seconds"),
             "From accepting a request to its first token.", ((1, WARM), (2.5, HOT))),
        stat("Between tokens p95", "s", quantile(0.95, "spotlight_inter_token_latency_seconds"),
             "The gap that a reader sees.", ((0.1, WARM), (0.5, HOT))),
        stat("KV cache", "percentunit", "max(spotlight_kv_cache_usage_ratio{SERIES})", "The fullest server's.",
             ((0.85, WARM), (0.95, HOT)), maximum=1),
        stat("Refused", "percentunit",
             f"{rate('spotlight_requests_rejected_total')} / {rate('spotlight_requests_total')}",
             "Share of calls refused before any work, for whatever reason.", ((0.01, WARM), (0.05, HOT)), maximum=1),
    ],
    "Latency": [
        lines("End to end", "s", quantiles("spotlight_request_e2e_seconds"), "Accepted to finished."),
        lines("First token", "s", quantiles("spotlight_time_to_first_token_seconds"),
              "Accepted to first token. The red line is the objective's default bound.", ((2.5, HOT),)),
        lines("Between tokens", "s", quantiles("spotlight_inter_token_latency_seconds"),
              "A gap is a step: long prompts in a step, preemptions and large batches make it longer.", ((0.5, HOT),)),
        lines("Time per output token", "s", quantiles("spotlight_time_per_output_token_seconds"),
              "A request's decode time over its tokens after the first."),
    ],
    "Where the time goes": [
        lines("First token, where it goes", "s",
              {"queue": mean("spotlight_request_queue_seconds"), "prefill": mean("spotlight_request_prefill_seconds")},
              "Means, stacked. Queue: capacity. Prefill: length of prompts.", stacked=True),
        lines("Prefill for 1,000 prompt tokens", "s",
              {"seconds": f"1000 * {rate('spotlight_request_prefill_seconds_sum')} / "
                          f"{rate('spotlight_request_prompt_tokens_sum')}"},
              "First tokens against the length of prompts: rises when long prompts wait for their turn in steps."),
        lines("Decode", "s", quantiles("spotlight_request_decode_seconds"), "First token to last."),
        lines("First tokens later than the objective", "percentunit",
              {"5 m": 'spotlight:first_token_late:ratio_rate5m{namespace=~"$namespace", model_name=~"$model_name"}',
               "1 h": 'spotlight:first_token_late:ratio_rate1h{namespace=~"$namespace", model_name=~"$model_name"}',
               "6 h": 'spotlight:first_token_late:ratio_rate6h{namespace=~"$namespace", model_name=~"$model_name"}'},
              "The burn-rate alerts' input: they fire at 14.4% and 6% for an objective of 99%.",
              ((0.06, WARM), (0.144, HOT))),
    ],
    "Throughput": [
        lines("Tokens per second", "tokens/s",
              {"prompt": rate("spotlight_prompt_tokens_total"), "generated": rate("spotlight_generation_tokens_total"),
               "prompt, from the prefix cache": rate("spotlight_cached_prompt_tokens_total")},
              "Prompt tokens count once their request is finished."),
        lines("Requests per second", "reqps", {"{{method}} {{grpc_code}}": rate("spotlight_requests_total",
                                                                               "method, grpc_code")},
              "Calls that ended, by gRPC status."),
        lines("Finish reasons", "reqps",
              {"{{finish_reason}}": rate("spotlight_requests_total", "finish_reason",
                                         'SERIES, method=~"Generate|GenerateStream"')},
              "length: max_tokens or the context was reached. none: refused or failed before anything was generated."),
    ],
    "Scheduler": [
        lines("Running and waiting", "short",
              {"running": "sum(spotlight_requests_running{SERIES})",
               "waiting": "sum(spotlight_requests_waiting{SERIES})"}, "Requests, all servers."),
        lines("Waiting prompt tokens", "short", {"tokens": "sum(spotlight_requests_waiting_tokens{SERIES})"},
              "What the queue will cost to prefill."),
        lines("Step time p95", "s", {"{{phase}}": quantile(0.95, "spotlight_step_seconds", "phase")},
              "mixed: a chunk of a prompt rides along with decoding."),
        lines("Batch", "short", {"decode rows": mean("spotlight_batch_size"), "tokens": mean("spotlight_step_tokens")},
              "Means of a step."),
    ],
    "CUDA graphs": [
        lines("Steps from graphs", "percentunit",
              {"{{phase}}": rate("spotlight_step_seconds_count", "phase", 'SERIES, cuda_graph="true"') + " / " +
                            rate("spotlight_step_seconds_count", "phase")},
              "Share of a GPU's steps that were replayed from captured graphs. decode: near 100%; the others: only steps "
              "with one short chunk have graphs, and with an fp8 KV cache no step with a chunk.", maximum=1),
        lines("Captures", "ops", {"{{result}}": rate("spotlight_graph_captures_total", "result")},
              "The third step of a new kind waits tens of milliseconds for its graph: 0 once traffic is as usual. failed: for want "
              "of memory, and such steps stay slower.", ((0.1, WARM),)),
    ],
    "Cache": [
        lines("KV cache use", "percentunit", {"{{instance}}": "spotlight_kv_cache_usage_ratio{SERIES}"},
              "Pages in use. At the top requests wait or are preempted.", ((0.95, HOT),), maximum=1),
        lines("Preemptions", "ops", {"per second": rate("spotlight_preemptions_total")},
              "Sequences computed again for want of pages. Should be 0.", ((0.1, HOT),)),
        lines("Prefix cache hits", "percentunit",
              {"hits": f"{rate('spotlight_prefix_cache_hits_tokens_total')} / "
                       f"({rate('spotlight_prefix_cache_queries_tokens_total')} > 0) or "
                       f"0 * {rate('spotlight_prefix_cache_hits_tokens_total')}"},
              "Share of looked-up prompt tokens whose pages were there.", maximum=1),
    ],
    "Lengths": [
        Panel("Prompt tokens", "heatmap", "short", heat("spotlight_request_prompt_tokens"), "Of finished requests."),
        Panel("Generated tokens", "heatmap", "short", heat("spotlight_request_generation_tokens"),
              "Of finished requests."),
        Panel("Context length", "heatmap", "short", heat("spotlight_context_tokens"),
              "Cached tokens of each decode row of a step: what attention has to look through."),
    ],
    "Admission and cancellation": [
        lines("Refusals by reason", "reqps", {"{{reason}}": rate("spotlight_requests_rejected_total", "reason")},
              "queue_requests, queue_tokens: overload. kv_capacity: larger than the cache. invalid: the client's fault."),
        lines("Cancellations by phase", "reqps", {"{{phase}}": rate("spotlight_requests_cancelled_total", "phase")},
              "Where a request was when its client left, aborted it, or its deadline passed."),
        lines("Cancel to pages free", "s", quantiles("spotlight_cancel_release_seconds", (0.5, 0.99)),
              "A cancel takes effect between two steps.", ((1, HOT),)),
        lines("Tokens wasted", "percentunit",
              {"of generated": f"{rate('spotlight_wasted_tokens_total')} / {rate('spotlight_generation_tokens_total')}"},
              "Generated after the client had left.", ((0.1, HOT),)),
    ],
}

READ = rate("spotlight_retrieval_kv_read_bytes_total")
DENSE = rate("spotlight_retrieval_kv_dense_equivalent_bytes_total")

RETRIEVAL = {
    "At a glance": [
        stat("KV traffic saved", "percentunit", f"1 - {READ} / {DENSE}",
             "Bytes that decode steps did not read, of those that dense attention would have.", maximum=1),
        stat("Sparse rows", "percentunit",
             f"{rate('spotlight_retrieval_selected_ratio_count')} / {rate('spotlight_context_tokens_count')}",
             "Share of decode rows that attended to a selection.", maximum=1),
        stat("Selected", "percentunit", mean("spotlight_retrieval_selected_ratio"), "Mean share of the context.",
             maximum=1),
        stat("Attention mass", "percentunit", mean("spotlight_retrieval_attention_mass_ratio"),
             "Mean share of the softmax weight that the selection caught, sampled. What answers depend on.", maximum=1),
        stat("Recall", "percentunit", mean("spotlight_retrieval_recall_ratio"),
             "Mean share of the best possible selection, sampled.", maximum=1),
        stat("Fallbacks", "ops", rate("spotlight_retrieval_fallbacks_total"),
             "Requests a second that the guardrail gave a larger budget or made dense.", ((0.1, WARM),)),
    ],
    "Quality, sampled": [
        lines("Attention mass", "percentunit",
              {"mean": mean("spotlight_retrieval_attention_mass_ratio"),
               "worst tenth": quantile(0.1, "spotlight_retrieval_attention_mass_ratio")},
              "One decode row in one layer of one sparse step in --quality-sample-every, against exact attention.",
              maximum=1),
        lines("Recall and overlap", "percentunit",
              {"recall": mean("spotlight_retrieval_recall_ratio"),
               "recall, worst tenth": quantile(0.1, "spotlight_retrieval_recall_ratio"),
               "intersection over union": mean("spotlight_retrieval_iou_ratio")},
              "Against the best possible selection of the same size.", maximum=1),
        lines("Recall, now and over a day", "percentunit",
              {"30 m": 'spotlight:retrieval_recall:mean30m{namespace=~"$namespace", model_name=~"$model_name"}',
               "1 d": 'spotlight:retrieval_recall:mean1d{namespace=~"$namespace", model_name=~"$model_name"}'},
              "SpotlightRecallDrop fires when the first is below 85% of the second.", maximum=1),
        lines("Error of the attention's output", "percentunit",
              {"median": quantile(0.5, "spotlight_retrieval_output_relative_error"),
               "worst tenth": quantile(0.9, "spotlight_retrieval_output_relative_error")}, "Relative, in the 2-norm."),
    ],
    "Guardrail": [
        lines("Samples by outcome", "ops", {"{{outcome}}": rate("spotlight_retrieval_samples_total", "outcome")},
              "low: attention mass under --quality-floor. not_finite: take the server out."),
        lines("Fallbacks by action", "ops", {"{{action}}": rate("spotlight_retrieval_fallbacks_total", "action")},
              "What a request with several low samples in a row gets from then on."),
        lines("Dense rows by reason", "ops", {"{{reason}}": rate("spotlight_dense_steps_total", "reason")},
              "short_context and layer_policy are as designed; guardrail and no_hash cost speed."),
    ],
    "Speed": [
        lines("Time of a step's retrieval, by stage", "s",
              {"{{stage}}": f"{rate('spotlight_retrieval_seconds_sum', 'stage')} / "
                            f"{rate('spotlight_retrieval_seconds_count', 'stage')}"},
              "Means over a step's hashed layers together; one sparse step in several is timed."),
        lines("Time of a step's retrieval, all stages", "s",
              {name: query.replace("{SERIES}", '{SERIES, stage="total"}')
               for name, query in quantiles("spotlight_retrieval_seconds").items()}, "Quantiles of the total."),
        lines("KV bytes", "Bps", {"read": READ, "dense attention would read": DENSE}, "Of decode steps, all layers."),
    ],
    "Selection": [
        lines("Tokens", "short",
              {"compete": mean("spotlight_retrieval_candidate_tokens"),
               "selected": mean("spotlight_retrieval_selected_tokens")}, "Means of a sparse row."),
        Panel("Share of the context", "heatmap", "percentunit", heat("spotlight_retrieval_selected_ratio"),
              "Short contexts select a larger share: at least 64 tokens, the sinks and the most recent."),
        Panel("Candidates", "heatmap", "short", heat("spotlight_retrieval_candidate_tokens"),
              "Tokens that compete in a sparse row."),
    ],
}

FLEET = {
    "State": [
        Panel("Serving", "state-timeline", "short", {"{{instance}}": "spotlight_health_status{SERIES}"},
              "1: ready. 0: loading, draining or broken.", width=12),
        Panel("Answering scrapes", "state-timeline", "short",
              {"{{instance}}": 'up{job="spotlight", instance=~"$instance"}'}, "0: gone, or unreachable for Prometheus.",
              width=12),
    ],
    "What runs": [
        Panel("Build", "table", "short", {"build": "spotlight_build_info{SERIES}"}, "Two versions: a roll-out.",
              labels=("instance", "model_name", "version", "libtorch"), width=8),
        Panel("Cache", "table", "short", {"cache": "spotlight_cache_config_info{SERIES}"},
              "Pages of page_size tokens; hash_bits 0: no hash weights.",
              labels=("instance", "num_pages", "page_size", "hash_bits"), width=8),
        Panel("Uptime", "timeseries", "s", {"{{instance}}": "time() - process_start_time_seconds{PROCESS}"},
              "A fall to 0 is a restart: requests in flight were lost.", width=8),
    ],
    "Load": [
        lines("Running", "short", {"{{instance}}": "spotlight_requests_running{SERIES}"},
              "Uneven: clients keep one connection each; see the chart's service.headless."),
        lines("Waiting", "short", {"{{instance}}": "spotlight_requests_waiting{SERIES}"}, "By server.", ((4, WARM),)),
        lines("KV cache use", "percentunit", {"{{instance}}": "spotlight_kv_cache_usage_ratio{SERIES}"}, "By server.",
              ((0.95, HOT),), maximum=1),
        lines("Generated tokens per second", "tokens/s",
              {"{{instance}}": rate("spotlight_generation_tokens_total", "instance")}, "By server."),
    ],
    "Latency": [
        lines("First token p95", "s",
              {"{{instance}}": quantile(0.95, "spotlight_time_to_first_token_seconds", "instance")}, "By server.",
              ((2.5, HOT),)),
        lines("Step p95", "s", {"{{instance}}": quantile(0.95, "spotlight_step_seconds", "instance")},
              "One server slower than the others under the same load: look at its device."),
        lines("Model load", "s", {"{{instance}}": "spotlight_model_load_seconds{SERIES}"},
              "The chart's model.loadSeconds has to cover it."),
    ],
    "Credentials, traces and logs": [
        lines("Certificate runs out in", "s",
              {"{{instance}}": "spotlight_certificate_expiry_timestamp_seconds{SERIES} - time()"},
              "Nothing without TLS. Under a week SpotlightCertificateExpiring fires."),
        lines("Changed files of certificates and tokens", "ops",
              {"{{files}} {{outcome}}": rate("spotlight_credential_reloads_total", "files, outcome")},
              "refused: what was loaded before goes on, also for whoever was to be shut out."),
        lines("Spans to the trace collector", "ops", {"{{outcome}}": rate("spotlight_trace_spans_total", "outcome")},
              "Zero without --otlp-endpoint. failed: the collector did not take them; dropped: too many waited."),
        lines("Lines lost by the logs", "ops", {"{{log}}": rate("spotlight_log_lines_dropped_total", "log")},
              "requests: a line per call, on standard output; program: on standard error. A full disk or a reader that "
              "does not read."),
    ],
    "Process": [
        lines("CPU", "short", {"{{instance}}": "rate(process_cpu_seconds_total{PROCESS}[RATE])"}, "Cores in use; steadily at --threads plus one: the CPU is the limit."),
        lines("Resident memory", "bytes", {"{{instance}}": "process_resident_memory_bytes{PROCESS}"},
              "Host memory; the libraries alone take about 350 MB."),
        lines("KV cache and codes at capacity", "bytes",
              {"cache {{instance}}": "spotlight_kv_cache_bytes{SERIES}",
               "codes {{instance}}": "spotlight_hash_code_bytes{SERIES}"}, "Device memory set aside."),
        lines("File descriptors", "percentunit",
              {"{{instance}}": "process_open_fds{PROCESS} / process_max_fds{PROCESS}"}, "A connection takes one.",
              ((0.8, HOT),), maximum=1),
    ],
}

DASHBOARDS = {
    "overview": ("Spotlight / Overview", OVERVIEW),
    "retrieval": ("Spotlight / Retrieval", RETRIEVAL),
    "fleet": ("Spotlight / Fleet", FLEET),
}
