#include "training/evaluation/quality_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

constexpr char kAll[] = "all";
constexpr double kGuardrailShare = 0.01;

// Both in the order of their first appearance.
std::vector<int64_t> Contexts(const std::vector<SequenceResult>& results) {
  std::vector<int64_t> contexts;
  for (const SequenceResult& result : results) {
    const bool known = std::find(contexts.begin(), contexts.end(), result.context) != contexts.end();
    if (!known) contexts.push_back(result.context);
  }
  return contexts;
}

std::vector<std::string> Kinds(const std::vector<SequenceResult>& results, int64_t context) {
  std::vector<std::string> kinds;
  for (const SequenceResult& result : results) {
    const bool known = std::find(kinds.begin(), kinds.end(), result.kind) != kinds.end();
    if (result.context == context && !known) kinds.push_back(result.kind);
  }
  return kinds;
}

class Mean {
 public:
  void Add(absl::Span<const float> values) {
    for (const float value : values) sum_ += value;
    count_ += static_cast<int64_t>(values.size());
  }
  double Value() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

 private:
  double sum_ = 0;
  int64_t count_ = 0;
};

QualityRow RowOf(const std::vector<SequenceResult>& results, const MeasuredAxes& axes, int64_t context,
                 const std::string& kind, size_t budget, size_t selector) {
  QualityRow row;
  row.selector = axes.selectors[selector];
  row.budget = axes.budgets[budget];
  row.context = context;
  row.kind = kind;
  std::array<Mean, kNumMeasures> means;
  std::vector<float> masses;
  for (const SequenceResult& result : results) {
    if (result.context != context || (kind != kAll && result.kind != kind)) continue;
    ++row.num_sequences;
    for (size_t layer = 0; layer < axes.layers.size(); ++layer) {
      for (int m = 0; m < kNumMeasures; ++m) {
        means[m].Add(result.measured.Values(selector, budget, layer, static_cast<Measure>(m)));
      }
      const auto mass = result.measured.Values(selector, budget, layer, Measure::kMass);
      masses.insert(masses.end(), mass.begin(), mass.end());
    }
  }
  for (int m = 0; m < kNumMeasures; ++m) row.mean[m] = means[m].Value();
  row.mass_p1 = Quantile(std::move(masses), kGuardrailShare);
  return row;
}

}  // namespace

std::vector<QualityRow> QualityRows(const std::vector<SequenceResult>& results, const MeasuredAxes& axes) {
  std::vector<QualityRow> rows;
  for (const int64_t context : Contexts(results)) {
    std::vector<std::string> kinds = Kinds(results, context);
    if (kinds.size() == 1) kinds.clear();
    kinds.insert(kinds.begin(), kAll);
    for (size_t budget = 0; budget < axes.budgets.size(); ++budget) {
      for (size_t selector = 0; selector < axes.selectors.size(); ++selector) {
        for (const std::string& kind : kinds) {
          rows.push_back(RowOf(results, axes, context, kind, budget, selector));
        }
      }
    }
  }
  for (QualityRow& row : rows) {
    const QualityRow* oracle = FindRow(rows, "oracle-b", row.budget, row.context, row.kind);
    if (oracle == nullptr) continue;
    row.oracle_mass_c = oracle->mean[static_cast<int>(Measure::kMassC)];
    row.oracle_err = oracle->mean[static_cast<int>(Measure::kErr)];
  }
  return rows;
}

std::vector<HeadRow> HeadRows(const std::vector<SequenceResult>& results, const MeasuredAxes& axes) {
  std::vector<HeadRow> rows;
  if (results.empty()) return rows;
  const int64_t heads = results.front().measured.num_kv_heads;
  for (const int64_t context : Contexts(results)) {
    for (size_t budget = 0; budget < axes.budgets.size(); ++budget) {
      for (size_t selector = 0; selector < axes.selectors.size(); ++selector) {
        for (size_t layer = 0; layer < axes.layers.size(); ++layer) {
          for (int64_t head = 0; head < heads; ++head) {
            HeadRow row{axes.selectors[selector], axes.budgets[budget],       context,
                        axes.layers[layer],       static_cast<int32_t>(head), {}};
            for (int m = 0; m < kNumMeasures; ++m) {
              Mean mean;
              for (const SequenceResult& result : results) {
                if (result.context != context) continue;
                const int64_t queries = result.measured.num_queries;
                mean.Add(result.measured.Values(selector, budget, layer, static_cast<Measure>(m))
                             .subspan(head * queries, queries));
              }
              row.mean[m] = mean.Value();
            }
            rows.push_back(std::move(row));
          }
        }
      }
    }
  }
  return rows;
}

std::vector<HashLoss> HashLosses(const std::vector<QualityRow>& rows) {
  std::vector<HashLoss> losses;
  const auto recall = [](const QualityRow& row) { return row.mean[static_cast<int>(Measure::kRecB)]; };
  for (const QualityRow& row : rows) {
    const bool is_hash = row.selector == "hash" || absl::StartsWith(row.selector, "hash:");
    if (!is_hash || row.kind != kAll) continue;
    const std::string file = row.selector.substr(4);
    const QualityRow* real = FindRow(rows, absl::StrCat("hash-real", file), row.budget, row.context, kAll);
    const QualityRow* prefilter = FindRow(rows, absl::StrCat("hash-prefilter", file), row.budget, row.context, kAll);
    if (real == nullptr && prefilter == nullptr) continue;
    HashLoss loss{row.selector, row.budget, row.context, real != nullptr, prefilter != nullptr, 0, 0};
    if (real != nullptr) loss.quantising = recall(*real) - recall(row);
    if (prefilter != nullptr) loss.prefilter = recall(row) - recall(*prefilter);
    losses.push_back(loss);
  }
  return losses;
}

const QualityRow* FindRow(const std::vector<QualityRow>& rows, absl::string_view selector, double budget,
                          int64_t context, absl::string_view kind) {
  for (const QualityRow& row : rows) {
    if (row.selector == selector && row.budget == budget && row.context == context && row.kind == kind) return &row;
  }
  return nullptr;
}

double Quantile(std::vector<float> values, double share) {
  // Of these no order exists, and sorting by none is undefined.
  if (std::any_of(values.begin(), values.end(), [](float value) { return std::isnan(value); })) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  const double part = place - static_cast<double>(below);
  return values[below] * (1 - part) + values[above] * part;
}

}  // namespace spotlight::training
