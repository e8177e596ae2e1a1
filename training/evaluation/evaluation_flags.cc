#include "training/evaluation/evaluation_flags.h"

#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "command_line/flag_parser.h"
#include "training/evaluation/selectors/selector_names.h"

ABSL_FLAG(std::string, model, "", "The checkpoint: config.json, tokenizer.json, *.safetensors. Required");
ABSL_FLAG(std::string, hash, "auto", "The hash file that the hash selectors read; auto: search for one");
ABSL_FLAG(std::string, hash_folders, "", "Comma-separated folders that --hash=auto searches after the model's own");
ABSL_FLAG(std::string, text, "",
          "Texts: files and folders. The kind of a text is the name of its folder (books, code) unless it is given "
          "(default: the project's own, training/texts/eval)");
ABSL_FLAG(std::string, context, "8192", "Tokens of a sequence; several separated by commas");
ABSL_FLAG(std::string, budget, "0.02", "Shares of the context that are selected, separated by commas");
ABSL_FLAG(std::string, selectors,
          "oracle-a,oracle-b,hash,hash-real,hash-prefilter,lsh,lsh-head,quest,quest-group,"
          "magicpig,window,random",
          "What is measured, separated by commas; the hash ones may be followed by :PATH");
ABSL_FLAG(int32_t, queries, 32, "Queries of each sequence, drawn from its second half");
ABSL_FLAG(int32_t, sequences, 1, "Sequences of each text, one after the other");
ABSL_FLAG(int32_t, prefilter_factor, 4, "Candidates of hash-prefilter's second pass, in budgets");
ABSL_FLAG(double, adaptive_share, 0.5, "Share of the estimated attention mass that hash-adaptive selects for");
ABSL_FLAG(uint64_t, seed, 0, "Of the queries drawn and of random selectors");
ABSL_FLAG(bool, perplexity, false,
          "Measure perplexity too: of running text, repeated text and a passage that comes again");
ABSL_FLAG(bool, needle, false, "Measure a fact's retrieval by length of the text and depth of the fact");
ABSL_FLAG(bool, tasks, false, "Measure generated tasks: needles, variables, frequent words");
ABSL_FLAG(bool, fidelity, false, "Measure how long greedy answers stay the dense model's, served with --hash");
ABSL_FLAG(bool, check_bars, false, "Judge the hash by the project's bars; exit 1 when one is missed");
ABSL_FLAG(std::string, json, "", "Write all figures to this file");
ABSL_FLAG(std::string, device, "auto", "Where to run; auto: cuda:0, cpu on a machine without GPUs");
ABSL_FLAG(std::string, dtype, "auto", "Of weights and activations; auto: bf16 where the device computes it fast");
ABSL_FLAG(std::string, quantization, "none", "Of the layers' matrices, as the server's flag");
ABSL_FLAG(std::string, kv_cache_dtype, "auto", "Of keys and values, as the server's flag");
ABSL_FLAG(int32_t, threads, 0, "Threads of the CPU; 0: one per core");

namespace spotlight::training {
namespace {

using command_line::FlagAction;
using command_line::FlagGroup;

constexpr char kDefaultTexts[] = "training/texts/eval";
// Shorter ones have no query with more candidates than the smallest selection.
constexpr int64_t kMinContext = 512;

const std::vector<FlagGroup>& Groups() {
  static const auto* const groups = new std::vector<FlagGroup>{
      {"What is judged",
       {{"model", "DIR"}, {"hash", "auto|PATH"}, {"hash_folders", "DIR,..."}, {"selectors", "NAME,..."}}},
      {"On what",
       {{"text", "[KIND=]PATH ..."},
        {"context", "N,..."},
        {"budget", "SHARE,..."},
        {"sequences", "N"},
        {"queries", "N"},
        {"prefilter_factor", "N"},
        {"adaptive_share", "SHARE"},
        {"seed", "N"}}},
      {"End to end, at the longest context and with every selector",
       {{"perplexity", ""}, {"needle", ""}, {"tasks", ""}, {"fidelity", ""}}},
      {"Output", {{"json", "PATH"}, {"check_bars", ""}}},
      {"Machine",
       {{"device", "auto|cpu|cuda:N"},
        {"dtype", "auto|bf16|fp32"},
        {"quantization", "none|fp8"},
        {"kv_cache_dtype", "auto|fp8"},
        {"threads", "N"}}},
  };
  return *groups;
}

absl::Status Bad(absl::string_view flag, absl::string_view value, absl::string_view bound) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": must be ", bound, ", got \"", value, "\""));
}

// Where this is run from the repository, else among the program's runfiles. Empty: nowhere.
std::string DefaultTexts() {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(kDefaultTexts, error)) return kDefaultTexts;
  const std::string program = fs::read_symlink("/proc/self/exe", error).string();
  const std::string beside = absl::StrCat(program, ".runfiles/spotlight/", kDefaultTexts);
  return fs::is_directory(beside, error) ? beside : "";
}

absl::Status ParseContexts(EvaluationOptions* options) {
  const std::string text = absl::GetFlag(FLAGS_context);
  for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int64_t context = 0;
    if (!absl::SimpleAtoi(word, &context) || context < kMinContext || context > (int64_t{1} << 30)) {
      return Bad("context", word, absl::StrCat("at least ", kMinContext, " tokens"));
    }
    options->contexts.push_back(context);
  }
  return options->contexts.empty() ? Bad("context", text, "one length or more") : absl::OkStatus();
}

absl::Status ParseBudgets(EvaluationOptions* options) {
  const std::string text = absl::GetFlag(FLAGS_budget);
  for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    double budget = 0;
    if (!absl::SimpleAtod(word, &budget) || !(budget > 0 && budget <= 1)) {
      return Bad("budget", word, "above 0 and up to 1");
    }
    options->budgets.push_back(budget);
  }
  return options->budgets.empty() ? Bad("budget", text, "one share or more") : absl::OkStatus();
}

absl::Status ParseDType(EvaluationOptions* options) {
  const std::string dtype = absl::GetFlag(FLAGS_dtype);
  if (dtype == "auto") {
    options->dtype = engine::DTypeChoice::kAuto;
  } else if (dtype == "bf16") {
    options->dtype = engine::DTypeChoice::kBf16;
  } else if (dtype == "fp32") {
    options->dtype = engine::DTypeChoice::kFp32;
  } else {
    return Bad("dtype", dtype, "auto, bf16 or fp32");
  }
  const std::string quantization = absl::GetFlag(FLAGS_quantization);
  const auto named = engine::QuantizationNamed(quantization);
  if (!named.has_value()) return Bad("quantization", quantization, "none or fp8");
  options->quantization = *named;
  const std::string cache = absl::GetFlag(FLAGS_kv_cache_dtype);
  const auto cache_dtype = engine::KvCacheDTypeNamed(cache);
  if (!cache_dtype.has_value()) return Bad("kv-cache-dtype", cache, "auto or fp8");
  options->kv_cache_dtype = *cache_dtype;
  return absl::OkStatus();
}

absl::Status CheckDevice(const std::string& device) {
  uint32_t index = 0;
  const bool is_cuda = device.rfind("cuda:", 0) == 0 && absl::SimpleAtoi(device.substr(5), &index);
  if (device == "auto" || device == "cpu" || is_cuda) return absl::OkStatus();
  return Bad("device", device, "auto, cpu or cuda:N");
}

absl::Status ParseCounts(EvaluationOptions* options) {
  const auto take = [](const char* flag, int32_t value, int32_t least, int32_t* out) {
    *out = value;
    return value >= least ? absl::OkStatus() : Bad(flag, absl::StrCat(value), absl::StrCat("at least ", least));
  };
  absl::Status status = take("queries", absl::GetFlag(FLAGS_queries), 1, &options->num_queries);
  status.Update(take("sequences", absl::GetFlag(FLAGS_sequences), 1, &options->num_sequences));
  status.Update(take("prefilter-factor", absl::GetFlag(FLAGS_prefilter_factor), 1, &options->prefilter_factor));
  options->adaptive_share = absl::GetFlag(FLAGS_adaptive_share);
  if (!(options->adaptive_share > 0 && options->adaptive_share < 1)) {
    status.Update(Bad("adaptive-share", absl::StrCat(options->adaptive_share), "above 0 and below 1"));
  }
  status.Update(take("threads", absl::GetFlag(FLAGS_threads), 0, &options->num_threads));
  return status;
}

}  // namespace

absl::StatusOr<EvaluationCommandLine> ParseEvaluationFlags(int argc, const char* const* argv) {
  const auto action = command_line::ParseFlags(Groups(), argc, argv);
  if (!action.ok()) return action.status();
  EvaluationCommandLine line;
  if (*action == FlagAction::kHelp) line.action = EvaluationAction::kPrintHelp;
  if (*action == FlagAction::kVersion) line.action = EvaluationAction::kPrintVersion;
  if (*action != FlagAction::kRun) return line;

  EvaluationOptions& options = line.options;
  options.model_folder = absl::GetFlag(FLAGS_model);
  if (options.model_folder.empty()) return absl::InvalidArgumentError("--model: is required; see --help");
  options.hash = absl::GetFlag(FLAGS_hash);
  options.hash_folders = absl::StrSplit(absl::GetFlag(FLAGS_hash_folders), ',', absl::SkipEmpty());
  options.texts = absl::StrSplit(absl::GetFlag(FLAGS_text), '\n', absl::SkipEmpty());
  options.selectors = absl::StrSplit(absl::GetFlag(FLAGS_selectors), ',', absl::SkipEmpty());
  if (options.selectors.empty()) return Bad("selectors", "", "one name or more");
  options.seed = absl::GetFlag(FLAGS_seed);
  options.perplexity = absl::GetFlag(FLAGS_perplexity);
  options.needle = absl::GetFlag(FLAGS_needle);
  options.tasks = absl::GetFlag(FLAGS_tasks);
  options.fidelity = absl::GetFlag(FLAGS_fidelity);
  options.check_bars = absl::GetFlag(FLAGS_check_bars);
  options.json = absl::GetFlag(FLAGS_json);
  options.device = absl::GetFlag(FLAGS_device);
  absl::Status status = ParseContexts(&options);
  status.Update(ParseBudgets(&options));
  status.Update(ParseDType(&options));
  status.Update(ParseCounts(&options));
  status.Update(CheckDevice(options.device));
  if (!status.ok()) return status;
  if (absl::Status names = CheckSelectorNames(options.selectors); !names.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--selectors: ", names.message()));
  }
  if (options.texts.empty()) options.texts = {DefaultTexts()};
  if (options.texts.front().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--text: must be given: ", kDefaultTexts, " is neither in this folder nor beside the program"));
  }
  return line;
}

std::string EvaluationHelp() {
  return absl::StrCat("Measures how well selectors of tokens stand in for exact attention.\n\n",
                      "Usage: spotlight-eval --model DIR [--hash FILE] [--text FILE ...] [--json OUT] [flags]\n\n",
                      command_line::FormatFlags(Groups()),
                      "\n  --help  this text        --version  the version\n\n"
                      "Exit codes: 0 done, 1 failed or missed a bar, 2 a bad command line.\n");
}

}  // namespace spotlight::training
