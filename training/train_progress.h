// Training as a line of text that is always up to date.
#pragma once

#include <cstdio>
#include <string>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "training/trainer.h"

namespace spotlight::training {

// "step 1200/3000  loss 4.213  held-out recall 0.671  118000 tokens/s  1:05 left".
std::string FormatProgress(const TrainProgress& progress, absl::optional<double> heldout_recall);

// "1:05", "2:03:10".
std::string FormatSeconds(double seconds);

// Thread-compatible. On a terminal one line that is written over; elsewhere a line every few seconds.
class ProgressLine {
 public:
  explicit ProgressLine(FILE* out);  // not owned
  ~ProgressLine();                   // leaves the last line standing
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const TrainProgress& progress);
  void Note(const std::string& line);

 private:
  FILE* const out_;
  const bool is_terminal_;
  bool line_is_open_ = false;
  absl::Time next_ = absl::InfinitePast();
  absl::optional<double> heldout_recall_;  // the last one measured
};

}  // namespace spotlight::training
