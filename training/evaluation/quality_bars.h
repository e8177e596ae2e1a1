// What a hash must reach, checked on a report. No torch.
//
// Absolute bars hold for the default model and the texts that are committed for judging; relative ones, against the
// best selection there is and a learned linear hash in the same run, for every text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "training/evaluation/evaluation_report.h"

namespace spotlight::training {

enum class BarResult : uint8_t { kPass, kMiss, kSkipped };

struct QualityBar {
  std::string what;  // "recB at least 0.69"
  BarResult result = BarResult::kSkipped;
  double value = 0;    // measured; of kPass and kMiss
  std::string reason;  // of kSkipped: what would have to be measured
};

// Judges the selector "hash" at 8,192 tokens and a budget of 2% (perplexity: 5% as well). `absolute`: the texts are
// those that absolute bars are for.
std::vector<QualityBar> CheckBars(const EvaluationReport& report, bool absolute);

// Whether every text lies in a folder training/texts/eval.
bool AreDefaultTexts(const std::vector<EvaluationText>& texts);

std::string ToTable(const std::vector<QualityBar>& bars);

// One or more bars were checked and none was missed.
bool Passed(const std::vector<QualityBar>& bars);

}  // namespace spotlight::training
