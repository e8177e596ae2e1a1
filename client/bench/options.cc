#include "client/bench/options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/generation_options.h"

namespace spotlight::client::bench {
namespace {

constexpr uint64_t kDefaultNumPrompts = 100;
// A call beyond its server's bound on the streams of a connection would wait in this process. 100 is the least that
// HTTP/2 recommends servers to allow.
constexpr uint64_t kStreamsPerConnection = 100;
constexpr uint64_t kMinConnections = 4;
constexpr uint64_t kMaxConnections = 1024;
constexpr uint64_t kUnboundedConnections = 16;  // at most, where nothing bounds the requests at a time
constexpr LengthRange kDefaultInputLen{256, 256};
constexpr LengthRange kDefaultOutputLen{128, 128};

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

Option Lengths(std::string name, std::string help, absl::optional<LengthRange>* lengths) {
  return {std::move(name), "N|LOW:HIGH", std::move(help), [lengths](const std::string& value) -> absl::Status {
            const auto parsed = ParseLengthRange(value, 1);
            if (parsed.ok()) *lengths = *parsed;
            return parsed.status();
          }};
}

absl::Status ParseRate(const std::string& value, double* rate) {
  // SimpleAtod takes "inf", too.
  if (!absl::SimpleAtod(value, rate) || !(*rate > 0)) {
    return Wrong(absl::StrCat("takes requests a second above 0, or inf, got '", value, "'"));
  }
  return absl::OkStatus();
}

absl::Status ParseGoodput(const std::string& value, Goodput* goodput) {
  for (absl::string_view pair : absl::StrSplit(value, absl::ByAnyChar(", "), absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(pair, absl::MaxSplits(':', 1));
    absl::optional<double>* const bound = parts.first == "ttft"   ? &goodput->ttft
                                          : parts.first == "tpot" ? &goodput->tpot
                                          : parts.first == "e2el" ? &goodput->e2el
                                                                  : nullptr;
    double milliseconds = 0;
    if (bound == nullptr || !absl::SimpleAtod(parts.second, &milliseconds) || !(milliseconds >= 0)) {
      return Wrong(
          absl::StrCat("takes ttft:MS, tpot:MS and e2el:MS, with milliseconds of 0 or more, got '", pair, "'"));
    }
    *bound = milliseconds;
  }
  return goodput->any() ? absl::OkStatus() : Wrong("needs one of ttft:MS, tpot:MS and e2el:MS");
}

absl::Status ParsePercentiles(const std::string& value, std::vector<double>* percentiles) {
  percentiles->clear();
  for (absl::string_view word : absl::StrSplit(value, ',')) {
    double percent = 0;
    if (!absl::SimpleAtod(word, &percent) || !Between(0, 100).Contains(percent)) {
      return Wrong(absl::StrCat("takes numbers of 0 to 100 between commas, got '", value, "'"));
    }
    percentiles->push_back(percent);
  }
  return absl::OkStatus();
}

absl::Status ParseMetadata(const std::string& value, BenchOptions* options) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(value, absl::MaxSplits('=', 1));
  if (parts.first.empty() || !absl::StrContains(value, "=")) {
    return Wrong(absl::StrCat("takes KEY=VALUE, got '", value, "'"));
  }
  options->metadata.push_back(parts);
  return absl::OkStatus();
}

OptionGroup TrafficOptions(BenchOptions* options) {
  LoadOptions* load = &options->load;
  return {
      "Traffic",
      {Option{"request-rate", "R",
              "open loop: send R requests a second on average, whatever the server does; latencies then count from "
              "the time that a request was meant to be sent. Default inf: all at once, or as --max-concurrency "
              "lets them",
              [=](const std::string& value) { return ParseRate(value, &load->request_rate); }},
       Real("burstiness", "B", Above(0),
            "shape of the intervals' gamma distribution: 1 is a Poisson process, less comes in bursts, more is more "
            "regular; default 1",
            [=](double value) { load->burstiness = value; }),
       Integer("max-concurrency", "N", AtLeast(1),
               "at most so many requests at a time; without --request-rate a closed loop of N clients. Default: no "
               "bound",
               [=](int32_t value) { load->max_concurrency = value; }),
       Integer("num-prompts", "N", AtLeast(1),
               absl::StrCat("requests to send; default ", kDefaultNumPrompts, ", or no bound with --duration"),
               [=](int32_t value) { options->num_prompts = value; }),
       Real("duration", "SECONDS", Above(0), "send nothing after so long; what runs then is waited for",
            [=](double value) { load->duration_seconds = value; }),
       Integer("num-warmups", "N", AtLeast(0), "requests before the run, not counted; default 0",
               [=](int32_t value) { options->num_warmups = value; }),
       Real("cancel-share", "SHARE", Between(0, 1),
            "share of the requests that are cancelled in the middle of their output; default 0",
            [=](double value) { options->workload.cancel_share = value; }),
       Integer(
           "connections", "N", Between(1, kMaxConnections),
           absl::StrCat("connections that calls take in turn. A server bounds the streams of one, spotlight-server "
                        "at 128. Default: one for ",
                        kStreamsPerConnection, " of --max-concurrency, ", kMinConnections, " at least; without it for ",
                        kStreamsPerConnection, " of --num-prompts, ", kMinConnections, " to ", kUnboundedConnections),
           [=](int32_t value) { options->num_connections = value; })}};
}

OptionGroup WorkloadFlags(BenchOptions* options) {
  WorkloadOptions* workload = &options->workload;
  return {"Prompts and lengths",
          {Text("dataset", "FILE",
                "prompts from a file (- is stdin), in turn: ShareGPT's JSON; JSON lines with prompt, token_ids or "
                "messages, and output_tokens; or a prompt a line. Default: random prompts",
                [=](std::string value) { options->dataset = std::move(value); }),
           Lengths("input-len",
                   absl::StrCat("tokens of a random prompt, fixed or uniform; default ", kDefaultInputLen.ToString()),
                   &options->input_len),
           Integer("prefix-len", "N", AtLeast(0), "tokens before them that all random prompts share; default 0",
                   [=](int32_t value) { workload->shared_prefix_tokens = value; }),
           Lengths("output-len",
                   absl::StrCat("tokens of an answer, fixed or uniform; default ", kDefaultOutputLen.ToString(),
                                ", or what the file says. Random prompts ignore the end of sequence, as --ignore-eos "
                                "does"),
                   &workload->output),
           Switch("random-text", "random prompts of English words, about a token each, instead of token ids",
                  [=] { workload->as_text = true; }),
           UnsignedInteger("workload-seed", "S",
                           "the same seed gives the same prompts, lengths, times and cancels; default 0",
                           [=](uint64_t value) { options->load.seed = workload->seed = value; })}};
}

OptionGroup ReportOptions(BenchOptions* options) {
  return {
      "Report",
      {Option{"goodput", "ttft:MS tpot:MS e2el:MS", "count the requests that keep these bounds, any of the three",
              [=](const std::string& value) { return ParseGoodput(value, &options->goodput); }},
       Option{"metric-percentiles", "P,P,...", "of the latencies; default 50,90,95,99",
              [=](const std::string& value) { return ParsePercentiles(value, &options->percentiles); }},
       Text("metrics-url", "URL",
            "the server's metrics, e.g. http://127.0.0.1:9090/metrics: adds how soon the server released what was "
            "cancelled (cancel_release_seconds), what it refused, preempted and generated for nobody",
            [=](std::string value) { options->metrics_url = std::move(value); }),
       Text("result-filename", "FILE", "write the figures as JSON, with vllm bench serve's names; - is stdout",
            [=](std::string value) { options->result_filename = std::move(value); }),
       Switch("save-detailed", "with every request's own figures in the JSON", [=] { options->save_detailed = true; }),
       Text("label", "TEXT", "stands in the JSON", [=](std::string value) { options->label = std::move(value); }),
       Option{"metadata", "KEY=VALUE", "stands in the JSON; may be given again",
              [=](const std::string& value) { return ParseMetadata(value, options); }}}};
}

}  // namespace

Command BenchCommand(BenchOptions* options) {
  Command command;
  command.name = "spotlight-bench";
  command.is_program = true;
  command.summary = "measures a server under load: latencies, throughput, goodput";
  command.details =
      "Streams answers over gRPC and reports time to first token (TTFT), time per output token (TPOT), inter-token "
      "latency (ITL), end-to-end latency (E2EL), throughput, and errors by status.\n"
      "With --request-rate latencies count from when a request was meant to be sent, so a stalled server cannot hide "
      "behind requests that were not sent (coordinated omission); the figures from the sending stand beside them.";
  command.groups = {options->connection.Options(), TrafficOptions(options), WorkloadFlags(options),
                    ReportOptions(options)};
  for (OptionGroup& group : GenerationOptions(&options->workload.base)) {
    // --output-len has it.
    const auto unwanted = [](const Option& option) { return option.name == "max-tokens"; };
    group.options.erase(std::remove_if(group.options.begin(), group.options.end(), unwanted), group.options.end());
    command.groups.push_back(std::move(group));
  }
  command.examples = {
      "spotlight-bench --max-concurrency 32 --input-len 1024 --output-len 128          # closed loop",
      "spotlight-bench --request-rate 20 --duration 60 --goodput ttft:500 tpot:50      # open loop, Poisson",
      "spotlight-bench --request-rate 4 --dataset ShareGPT.json --num-prompts 500 --result-filename run.json",
      "spotlight-bench --max-concurrency 64 --cancel-share 0.3 --metrics-url http://127.0.0.1:9090/metrics"};
  return command;
}

std::vector<std::string> JoinGoodput(absl::Span<const std::string> arguments) {
  std::vector<std::string> joined;
  bool in_goodput = false;
  for (const std::string& argument : arguments) {
    const bool is_flag = absl::StartsWith(argument, "-");
    if (in_goodput && !is_flag && joined.back() != "--goodput") {
      absl::StrAppend(&joined.back(), ",", argument);
      continue;
    }
    if (is_flag) in_goodput = argument == "--goodput" || absl::StartsWith(argument, "--goodput=");
    joined.push_back(argument);
  }
  return joined;
}

absl::Status FinishOptions(BenchOptions* options) {
  LoadOptions& load = options->load;
  WorkloadOptions& workload = options->workload;
  const bool is_random = options->dataset.empty();
  if (!is_random && (options->input_len.has_value() || workload.shared_prefix_tokens > 0 || workload.as_text)) {
    return Wrong("--dataset has its own prompts; --input-len, --prefix-len and --random-text are for random ones");
  }
  if (load.burstiness != 1 && !load.is_open_loop()) return Wrong("--burstiness needs a --request-rate");
  if (options->save_detailed && options->result_filename.empty()) {
    return Wrong("--save-detailed needs a --result-filename to write to");
  }
  if (is_random) {
    workload.input = options->input_len.value_or(kDefaultInputLen);
    workload.output = workload.output.value_or(kDefaultOutputLen);
    workload.base.mutable_stopping()->set_ignore_eos(true);
  }
  const bool has_duration = std::isfinite(load.duration_seconds);
  if (has_duration && !load.is_open_loop() && load.max_concurrency == 0) {
    return Wrong("--duration needs a --request-rate or a --max-concurrency: all at once has no end");
  }
  if (options->num_prompts.has_value() || !has_duration) {
    load.num_requests = options->num_prompts.value_or(kDefaultNumPrompts);
  }
  if (options->num_connections == 0) {
    const bool is_bounded = load.max_concurrency > 0;
    const uint64_t at_a_time = is_bounded ? static_cast<uint64_t>(load.max_concurrency) : load.num_requests;
    options->num_connections = static_cast<int32_t>(std::clamp(at_a_time / kStreamsPerConnection + 1, kMinConnections,
                                                               is_bounded ? kMaxConnections : kUnboundedConnections));
  }
  load.deadline = options->connection.deadline;
  return absl::OkStatus();
}

}  // namespace spotlight::client::bench
