#include "training/train_program.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "command_line/signal_thread.h"
#include "training/memory_plan.h"
#include "training/train_flags.h"
#include "training/train_progress.h"
#include "version.h"

namespace spotlight::training {
namespace {

// The first signal asks the run to stop; a second one ends the process. One that the parent had us ignore (nohup) stays
// ignored.
class StopOnSignal {
 public:
  const std::atomic<bool>* requested() const { return &requested_; }

 private:
  void OnSignal(int number) {
    if (requested_.exchange(true)) _exit(128 + number);
  }

  std::atomic<bool> requested_{false};
  command_line::SignalThread signals_{command_line::NotIgnored({SIGINT, SIGTERM}),
                                      [this](int number) { OnSignal(number); }};
};

// As a shell takes it.
std::string Quoted(const std::string& word) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("/._-+=:,@%", c);
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return word;
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

bool CanBeServed(const Recipe& recipe) {
  return recipe.encoder != EncoderKind::kPaper && recipe.query == QueryForm::kReal && !recipe.per_query_head;
}

// What stands before the other programs' names: the folder that this one was started from, "bin/" where that is another
// one's, nothing where it was found on the PATH.
std::string FolderOfPrograms(absl::string_view program) {
  const size_t slash = program.rfind('/');
  if (slash == absl::string_view::npos) return "";
  const std::string folder(program.substr(0, slash + 1));
  return access(absl::StrCat(folder, "spotlight-server").c_str(), X_OK) == 0 ? folder : "bin/";
}

std::string FormatReport(const TrainOptions& options, const TrainReport& report, const std::string& folder) {
  const Recipe& recipe = report.recipe;
  std::string text = absl::StrFormat(
      "%s: %s, %d bits per token and KV head\n"
      "trained on %d sequences, %d tokens, in %d steps and %s\n"
      "held out (%d sequences, 2%% of the tokens selected): recall %.3f, attention mass %.3f, IoU %.3f\n",
      options.out, FormatBytes(report.file_bytes), recipe.hash_bits, report.num_sequences, report.num_tokens,
      recipe.steps, FormatSeconds(report.seconds), report.num_heldout_sequences, report.heldout_recall,
      report.heldout_mass, report.heldout_iou);
  const std::string files = absl::StrCat("--model ", Quoted(options.model_folder), " --hash ", Quoted(options.out));
  absl::StrAppend(&text, "next:\n  ", folder, "spotlight-eval ", files, " --text FILE ...\n");
  if (CanBeServed(recipe)) absl::StrAppend(&text, "  ", folder, "spotlight-server ", files, "\n");
  return text;
}

int Train(const TrainOptions& options, const TrainFunction& train, const std::string& folder) {
  StopOnSignal stop;
  absl::StatusOr<TrainReport> report = absl::UnknownError("not trained");
  {
    ProgressLine line(stderr);
    report = train(
        options, [&line](const std::string& note) { line.Note(note); },
        [&line](const TrainProgress& progress) { line.Show(progress); }, stop.requested());
  }
  if (!report.ok()) {
    std::fprintf(stderr, "spotlight-train: %s\n", std::string(report.status().message()).c_str());
    return absl::IsCancelled(report.status()) ? 4 : 1;
  }
  std::fputs(FormatReport(options, *report, folder).c_str(), stdout);
  return 0;
}

}  // namespace

int RunTrainProgram(int argc, const char* const* argv, const TrainFunction& train) {
  const auto line = ParseTrainCommandLine(argc, argv);
  if (!line.ok()) {
    std::fprintf(stderr, "spotlight-train: %s\n", std::string(line.status().message()).c_str());
    return 2;
  }
  switch (line->action) {
    case TrainAction::kPrintHelp:
      std::fputs(TrainHelpText().c_str(), stdout);
      return 0;
    case TrainAction::kPrintVersion:
      std::printf("spotlight-train %s\n", kVersion);
      return 0;
    case TrainAction::kTrain:
      break;
  }
  return Train(line->options, train, FolderOfPrograms(argv[0]));
}

}  // namespace spotlight::training
