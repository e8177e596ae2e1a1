#include "training/train_progress.h"

#include <unistd.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace spotlight::training {
namespace {

constexpr absl::Duration kTerminalInterval = absl::Milliseconds(200);
constexpr absl::Duration kPlainInterval = absl::Seconds(5);

}  // namespace

std::string FormatSeconds(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole >= 3600) return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
}

std::string FormatProgress(const TrainProgress& progress, absl::optional<double> heldout_recall) {
  std::string line = absl::StrFormat("step %d/%d  loss %.3f", progress.step, progress.num_steps, progress.loss);
  if (heldout_recall.has_value()) absl::StrAppendFormat(&line, "  held-out recall %.3f", *heldout_recall);
  absl::StrAppendFormat(&line, "  %.0f tokens/s  %s left", progress.tokens_per_second,
                        FormatSeconds(progress.seconds_left));
  return line;
}

ProgressLine::ProgressLine(FILE* out) : out_(out), is_terminal_(isatty(fileno(out)) != 0) {}

ProgressLine::~ProgressLine() {
  if (line_is_open_) std::fputc('\n', out_);
}

void ProgressLine::Show(const TrainProgress& progress) {
  if (progress.heldout_recall.has_value()) heldout_recall_ = progress.heldout_recall;
  const absl::Time now = absl::Now();
  if (now < next_ && progress.step != progress.num_steps) return;
  next_ = now + (is_terminal_ ? kTerminalInterval : kPlainInterval);
  const std::string line = FormatProgress(progress, heldout_recall_);
  std::fprintf(out_, is_terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
  std::fflush(out_);
  line_is_open_ = is_terminal_;
}

void ProgressLine::Note(const std::string& line) {
  if (line_is_open_) std::fputc('\n', out_);
  line_is_open_ = false;
  std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
}

}  // namespace spotlight::training
