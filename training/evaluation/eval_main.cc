// spotlight-eval: how well a hash, or another selector of tokens, stands in for exact attention.
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "command_line/bound_spinning.h"
#include "training/evaluation/evaluation.h"
#include "training/evaluation/evaluation_flags.h"
#include "training/evaluation/quality_bars.h"
#include "version.h"

namespace spotlight::training {
namespace {

// A line that is written over on a terminal; on anything else a line for each piece of work that is done.
class ProgressLine {
 public:
  void Show(const std::string& what, int64_t done, int64_t total) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    if (terminal_) {
      std::fprintf(stderr, "\r\033[K%s: %lld of %lld, %.0f s%s", what.c_str(), static_cast<long long>(done),
                   static_cast<long long>(total), seconds, done == total ? "\n" : "");
    } else if (done == total) {
      std::fprintf(stderr, "%s: done, %.0f s\n", what.c_str(), seconds);
    }
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "spotlight-eval: %s\n", std::string(status.message()).c_str());
  return code;
}

// Written beside its place and moved there, so that a good file is never left half replaced.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : path_(path), partial_(path + ".partial") {}
  ~OutputFile() {
    if (!path_.empty()) std::remove(partial_.c_str());
  }
  // Minutes of work are not lost to a misspelt folder.
  bool CanBeWritten() const {
    if (path_.empty()) return true;
    std::error_code ignored;
    if (!std::filesystem::is_directory(path_, ignored)) return Report(static_cast<bool>(std::ofstream(partial_)));
    errno = EISDIR;
    return Report(false);
  }
  bool Write(const std::string& text) const {
    if (path_.empty()) return true;
    std::ofstream file(partial_, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    return Report(file && std::rename(partial_.c_str(), path_.c_str()) == 0);
  }

 private:
  bool Report(bool good) const {
    if (!good) std::perror(("spotlight-eval: --json " + path_).c_str());
    return good;
  }
  const std::string path_, partial_;
};

int Run(int argc, const char* const* argv) {
  const auto line = ParseEvaluationFlags(argc, argv);
  if (!line.ok()) return Fail(line.status(), 2);
  switch (line->action) {
    case EvaluationAction::kPrintHelp:
      std::fputs(EvaluationHelp().c_str(), stdout);
      return 0;
    case EvaluationAction::kPrintVersion:
      std::printf("spotlight-eval %s\n", kVersion);
      return 0;
    case EvaluationAction::kEvaluate:
      break;
  }
  const EvaluationOptions& options = line->options;
  const OutputFile json(options.json);
  if (!json.CanBeWritten()) return 1;
  ProgressLine progress;
  const auto report = Evaluate(
      options, [&](const std::string& what, int64_t done, int64_t total) { progress.Show(what, done, total); });
  if (!report.ok()) return Fail(report.status(), 1);
  std::fputs(ToTable(*report).c_str(), stdout);
  if (!json.Write(ToJson(*report))) return 1;
  if (!options.check_bars) return 0;
  const auto bars = CheckBars(*report, AreDefaultTexts(report->texts));
  std::fputs(("\n" + ToTable(bars)).c_str(), stdout);
  return Passed(bars) ? 0 : 1;
}

}  // namespace
}  // namespace spotlight::training

int main(int argc, char** argv) {
  spotlight::command_line::BoundSpinning(argv);
  return spotlight::training::Run(argc, argv);
}
