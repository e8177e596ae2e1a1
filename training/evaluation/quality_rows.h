// Means over what was measured: by selector, budget and context, by kind of text, by layer and head. No torch.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "training/evaluation/measured_sequence.h"
#include "training/evaluation/measures.h"

namespace spotlight::training {

struct SequenceResult {
  int64_t context = 0;
  std::string text, kind;
  MeasuredSequence measured;
};

// What every MeasuredSequence of a run has in common.
struct MeasuredAxes {
  std::vector<std::string> selectors;
  std::vector<double> budgets;
  std::vector<int32_t> layers;
};

using MeasureMeans = std::array<double, kNumMeasures>;  // by Measure

struct QualityRow {
  std::string selector;
  double budget = 0;
  int64_t context = 0;
  std::string kind;  // of the texts; "all"
  int64_t num_sequences = 0;
  // Over sequences, layers, KV heads and queries, each with equal weight.
  MeasureMeans mean{};
  double mass_p1 = 0;                        // 1st percentile of kMass
  double oracle_mass_c = 0, oracle_err = 0;  // oracle B's at the same budget and context
};

struct HeadRow {
  std::string selector;
  double budget = 0;
  int64_t context = 0;
  int32_t layer = 0, head = 0;  // KV head
  MeasureMeans mean{};          // over sequences and queries
};

// What a hash loses between its real-valued queries over all candidates and what is served. Of recB.
struct HashLoss {
  std::string hash;  // the selector: "hash", "hash:PATH"
  double budget = 0;
  int64_t context = 0;
  bool has_quantising = false, has_prefilter = false;
  double quantising = 0;  // "hash-real" less "hash"
  double prefilter = 0;   // "hash" less "hash-prefilter"
};

// For each context, budget and selector, in this order: a row of kind "all", then one for each kind where there are
// several.
std::vector<QualityRow> QualityRows(const std::vector<SequenceResult>& results, const MeasuredAxes& axes);
std::vector<HeadRow> HeadRows(const std::vector<SequenceResult>& results, const MeasuredAxes& axes);
std::vector<HashLoss> HashLosses(const std::vector<QualityRow>& rows);

// Null: none of kind `kind`.
const QualityRow* FindRow(const std::vector<QualityRow>& rows, absl::string_view selector, double budget,
                          int64_t context, absl::string_view kind);

// Of `values` in any order, not empty, with linear interpolation between neighbours; share in [0, 1]. NaN where
// one of them is.
double Quantile(std::vector<float> values, double share);

}  // namespace spotlight::training
