#include "client/bench/run.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/bench/dataset.h"
#include "client/bench/options.h"
#include "client/bench/report.h"
#include "client/error_details.h"
#include "client/prompt_source.h"
#include "version.h"

namespace spotlight::client::bench {
namespace {

constexpr char kExitCodesHelp[] =
    "Exit codes\n"
    "  0  at least one request completed (or was cancelled by --cancel-share)\n"
    "  1  something else went wrong, or all requests failed with an internal error\n"
    "  2  wrong usage: an unknown flag, a value out of range, a file that cannot be read\n"
    "  3  all requests were refused by the server; the most frequent status decides between 1, 3, 4, 5 and 6\n"
    "  4  interrupted by Ctrl-C, with the figures so far; or all requests were cancelled by the server\n"
    "  5  the server is unreachable, not serving or draining\n"
    "  6  all requests ran into their deadline\n";

ExitCode Fail(const Console& console, const absl::Status& status, ExitCode exit_code) {
  const std::string line = absl::IsCancelled(status) ? "cancelled" : ErrorLine(status);
  *console.err << "spotlight-bench: " << line << "\n" << std::flush;
  return exit_code;
}

ExitCode WrongUsage(const Console& console, absl::string_view message) {
  *console.err << "spotlight-bench: " << message << "\n" << std::flush;
  return kExitUsage;
}

// A connection of its own: channels to one server would share theirs.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ConnectionFlags& flags, Cancellation* cancellation) {
  auto channel = ChannelFor(flags, /*own_connection=*/true);
  if (!channel.ok()) return channel.status();
  const absl::Status status = GenerateClient(*channel).WaitForConnection(flags.connect_timeout, cancellation);
  if (!status.ok()) return status;
  return channel;
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

// A reference answer's length is in the server's tokens.
absl::Status CountReferences(GenerateClient* client, const CallOptions& call, WorkloadOptions* workload) {
  for (size_t i = 0; i < workload->dataset.size(); ++i) {
    DatasetPrompt& prompt = workload->dataset[i];
    if (workload->output.has_value() || prompt.output_tokens.has_value()) continue;
    if (prompt.reference_answer.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--output-len is needed: prompt ", i, " of the dataset does not say its output's length"));
    }
    v1::TokenizeRequest request;
    request.set_text(std::move(prompt.reference_answer));
    const auto tokens = client->Tokenize(request, call);
    if (!tokens.ok()) return tokens.status();
    prompt.output_tokens = std::max(tokens->token_ids_size(), 1);
  }
  return absl::OkStatus();
}

absl::Status AskServer(GenerateClient* client, const CallOptions& call, WorkloadOptions* workload,
                       std::string* model_id) {
  const auto model = client->GetModelInfo(call);
  if (!model.ok()) return model.status();
  *model_id = model->name();
  workload->vocab_size = model->vocab_size();
  workload->excluded_tokens.assign(model->eos_token_ids().begin(), model->eos_token_ids().end());
  return CountReferences(client, call, workload);
}

void PrintProgress(const Console& console, const LoadProgress& progress) {
  *console.err << absl::StrFormat("\r%5.0f s: %d sent, %d running, %d ended, %d failed, %d tokens\x1b[K",
                                  progress.seconds, progress.sent, progress.sent - progress.ended, progress.ended,
                                  progress.failed, progress.tokens)
               << std::flush;
}

absl::Status WarmUp(const BenchOptions& options, const Workload& workload,
                    const std::vector<std::shared_ptr<grpc::Channel>>& channels, Cancellation* cancellation) {
  LoadOptions load;
  load.num_requests = options.num_warmups;
  load.max_concurrency = options.load.max_concurrency;
  load.deadline = options.load.deadline;
  // Not those of the run, which might then be in the server's prefix cache.
  load.first_index = uint64_t{1} << 62;
  for (const RequestRecord& record : RunLoad(load, workload, channels, cancellation, nullptr)) {
    if (record.failed()) return absl::Status(static_cast<absl::StatusCode>(record.code), record.message);
  }
  return absl::OkStatus();
}

// Only the figures of the run itself: connections are open, prompts read.
absl::StatusOr<BenchResult> Measure(const BenchOptions& options, const Workload& workload, const Console& console,
                                    bool show_progress, Cancellation* cancellation) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int32_t i = 0; i < options.num_connections; ++i) {
    auto channel = OpenChannel(options.connection, cancellation);
    if (!channel.ok()) return channel.status();
    channels.push_back(*std::move(channel));
  }
  if (absl::Status status = WarmUp(options, workload, channels, cancellation); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("a warm-up request failed: ", status.message()));
  }
  BenchResult result;
  if (!options.metrics_url.empty()) {
    auto before = FetchMetrics(options.metrics_url);
    if (!before.ok()) return before.status();
    result.server = ServerReadings{*std::move(before), {}};
  }
  const double cpu_seconds = CpuSeconds();
  result.records = RunLoad(options.load, workload, channels, cancellation, [&](const LoadProgress& progress) {
    if (show_progress) PrintProgress(console, progress);
  });
  result.client_cpu_seconds = CpuSeconds() - cpu_seconds;
  if (show_progress) *console.err << "\r\x1b[K" << std::flush;
  result.summary = SummarizeRun(result.records, options.goodput, options.percentiles);
  if (result.server.has_value()) {
    absl::SleepFor(absl::Milliseconds(200));  // the last cancel reaches the server after the call's end here
    auto after = FetchMetrics(options.metrics_url);
    if (!after.ok()) return after.status();
    result.server->after = *std::move(after);
  }
  return result;
}

absl::Status WriteResult(const BenchOptions& options, const BenchResult& result, const Console& console) {
  const bool json_to_stdout = options.result_filename == "-";
  absl::Status status;
  if (!options.result_filename.empty() && !json_to_stdout) {
    std::ofstream file(options.result_filename, std::ios::binary | std::ios::trunc);
    file << FormatJson(options, result) << std::flush;
    if (!file)
      status = absl::UnknownError(absl::StrCat("--result-filename ", options.result_filename, ": cannot be written"));
  }
  if (json_to_stdout) *console.err << FormatTable(options, result) << std::flush;
  absl::Status reason;
  Write(console.out, json_to_stdout ? FormatJson(options, result) : FormatTable(options, result), &reason);
  return status.ok() ? reason : status;
}

ExitCode ExitCodeOf(const Summary& summary) {
  if (summary.completed + summary.cancelled > 0) return kExitOk;
  int64_t most = 0;
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  for (int i = 1; i <= static_cast<int>(grpc::StatusCode::UNAUTHENTICATED); ++i) {
    const auto found = summary.failures.find(CodeName(static_cast<grpc::StatusCode>(i)));
    if (found == summary.failures.end() || found->second.count <= most) continue;
    most = found->second.count;
    code = static_cast<grpc::StatusCode>(i);
  }
  return client::ExitCodeOf(absl::Status(static_cast<absl::StatusCode>(code), ""));
}

}  // namespace

ExitCode RunBench(absl::Span<const std::string> arguments, const Console& console, bool show_progress) {
  if (arguments.size() == 1 && arguments[0] == "--version") {
    *console.out << "spotlight-bench " << kVersion << "\n" << std::flush;
    return kExitOk;
  }
  BenchOptions options(console);
  const Command command = BenchCommand(&options);
  bool help_wanted = false;
  absl::Status status = ParseOptions(command, JoinGoodput(arguments), &help_wanted);
  if (help_wanted) {
    *console.out << HelpText(command) << "\n" << kExitCodesHelp << std::flush;
    return kExitOk;
  }
  if (status.ok()) status = FinishOptions(&options);
  if (!status.ok()) return WrongUsage(console, status.message());
  if (!options.dataset.empty()) {
    std::string text;
    status = ReadText(console, options.dataset, &text);
    if (!status.ok()) return Fail(console, status, kExitUsage);
    auto prompts = ParseDataset(options.dataset, text, options.load.num_requests);
    if (!prompts.ok()) return WrongUsage(console, absl::StrCat("--dataset ", prompts.status().message()));
    options.workload.dataset = *std::move(prompts);
  }

  Cancellation cancellation;
  const Interrupts::Scope interrupts(console.interrupts, &cancellation);
  const auto client = Connect(options.connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status(), client::ExitCodeOf(client.status()));
  std::string model_id;
  status = AskServer(client->get(), options.connection.Call(&cancellation), &options.workload, &model_id);
  if (!status.ok()) return Fail(console, status, client::ExitCodeOf(status));

  const std::string date = absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone());
  auto result = Measure(options, Workload(options.workload), console, show_progress, &cancellation);
  if (!result.ok()) return Fail(console, result.status(), client::ExitCodeOf(result.status()));
  result->date = date;
  result->model_id = model_id;
  status = WriteResult(options, *result, console);
  if (!status.ok()) return Fail(console, status, kExitFailed);
  return cancellation.cancelled() ? kExitCancelled : ExitCodeOf(result->summary);
}

}  // namespace spotlight::client::bench
