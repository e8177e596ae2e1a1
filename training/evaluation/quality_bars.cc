#include "training/evaluation/quality_bars.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"

namespace spotlight::training {
namespace {

constexpr char kHash[] = "hash";
constexpr int64_t kContext = 8192;
constexpr double kBudget = 0.02, kWideBudget = 0.05;

constexpr double kLeastRecB = 0.69, kLeastIouA = 0.395, kLeastMassC = 0.65, kMostErr = 0.105;
constexpr double kMostPrefilterLoss = 0.006, kMostQuantisingLoss = 0.010;
constexpr double kRecBOverLinear = 0.10, kLeastMassCOfOracle = 0.90, kMostErrOfOracle = 1.22;
// Perplexity over oracle B's.
constexpr double kMostRunning = 1.01, kMostRunningWide = 1.005, kMostCopyingBooks = 1.05, kMostCopyingCode = 1.09;

class BarList {
 public:
  void AtLeast(const std::string& what, double bound, absl::optional<double> value, const std::string& reason) {
    Add(absl::StrFormat("%s at least %g", what, bound), value, value.has_value() && *value >= bound, reason);
  }
  void AtMost(const std::string& what, double bound, absl::optional<double> value, const std::string& reason) {
    Add(absl::StrFormat("%s at most %g", what, bound), value, value.has_value() && *value <= bound, reason);
  }
  std::vector<QualityBar> Take() { return std::move(bars_); }

 private:
  void Add(std::string what, absl::optional<double> value, bool pass, const std::string& reason) {
    QualityBar bar;
    bar.what = std::move(what);
    if (value.has_value()) {
      bar.result = pass ? BarResult::kPass : BarResult::kMiss;
      bar.value = *value;
    } else {
      bar.reason = reason;
    }
    bars_.push_back(std::move(bar));
  }
  std::vector<QualityBar> bars_;
};

absl::optional<double> MeanOf(const QualityRow* row, Measure measure) {
  if (row == nullptr) return absl::nullopt;
  return row->mean[static_cast<int>(measure)];
}

const HashLoss* FindLoss(const EvaluationReport& report) {
  for (const HashLoss& loss : report.losses) {
    if (loss.hash == kHash && loss.budget == kBudget && loss.context == kContext) return &loss;
  }
  return nullptr;
}

void AddAbsoluteBars(const EvaluationReport& report, const QualityRow* hash, BarList* bars) {
  const std::string need = absl::StrFormat("needs selector hash at %d tokens and %g", kContext, kBudget);
  bars->AtLeast("recB", kLeastRecB, MeanOf(hash, Measure::kRecB), need);
  bars->AtLeast("iouA", kLeastIouA, MeanOf(hash, Measure::kIouA), need);
  bars->AtLeast("massC", kLeastMassC, MeanOf(hash, Measure::kMassC), need);
  bars->AtMost("err", kMostErr, MeanOf(hash, Measure::kErr), need);
  const HashLoss* loss = FindLoss(report);
  absl::optional<double> prefilter, quantising;
  if (loss != nullptr && loss->has_prefilter && report.prefilter_factor == 4) prefilter = loss->prefilter;
  if (loss != nullptr && loss->has_quantising) quantising = loss->quantising;
  bars->AtMost("recB lost by the prefilter at 4K candidates", kMostPrefilterLoss, prefilter,
               "needs selectors hash and hash-prefilter, --prefilter-factor 4");
  bars->AtMost("recB lost by quantising", kMostQuantisingLoss, quantising, "needs selectors hash and hash-real");
}

// The learned linear hash that compares bits with bits, trained by cross-entropy.
const QualityRow* LinearBaseline(const EvaluationReport& report) {
  for (const SelectorDescription& selector : report.selectors) {
    if (selector.hash.encoder != "linear" || selector.hash.scoring != "symmetric") continue;
    if (!absl::StrContains(selector.hash.recipe, "loss=ce") || !absl::StartsWith(selector.name, "hash:")) continue;
    return FindRow(report.rows, selector.name, kBudget, kContext, "all");
  }
  return nullptr;
}

void AddRelativeBars(const EvaluationReport& report, const QualityRow* hash, BarList* bars) {
  const QualityRow* linear = LinearBaseline(report);
  absl::optional<double> over_linear, mass_c, err;
  if (hash != nullptr && linear != nullptr) {
    over_linear = *MeanOf(hash, Measure::kRecB) - *MeanOf(linear, Measure::kRecB);
  }
  if (hash != nullptr && hash->oracle_mass_c > 0) mass_c = *MeanOf(hash, Measure::kMassC) / hash->oracle_mass_c;
  if (hash != nullptr && hash->oracle_err > 0) err = *MeanOf(hash, Measure::kErr) / hash->oracle_err;
  const std::string need = absl::StrFormat("needs selectors hash and oracle-b at %d tokens and %g", kContext, kBudget);
  bars->AtLeast("recB over the linear hash's", kRecBOverLinear, over_linear,
                "needs hash:PATH of a linear hash trained by cross-entropy, bits against bits");
  bars->AtLeast("massC over oracle B's", kLeastMassCOfOracle, mass_c, need);
  bars->AtMost("err over oracle B's", kMostErrOfOracle, err, need);
}

// Perplexity over oracle B's of all texts of a kind together: the exponential of the mean difference of logarithms.
absl::optional<double> PerplexityRatio(const EvaluationReport& report, double budget, const std::string& text_kind,
                                       const std::string& kind) {
  double sum = 0;
  int64_t count = 0;
  for (const PerplexityRow& row : report.perplexity) {
    const bool wanted = row.selector == kHash && row.budget == budget && row.kind == kind && row.oracle_b > 0;
    if (!wanted || !absl::StartsWith(row.text, text_kind + "/")) continue;
    sum += std::log(row.value / row.oracle_b);
    ++count;
  }
  if (count == 0) return absl::nullopt;
  return std::exp(sum / static_cast<double>(count));
}

// None unless both were measured: one alone must not pass for two.
absl::optional<double> Larger(const absl::optional<double>& a, const absl::optional<double>& b) {
  if (!a.has_value() || !b.has_value()) return absl::nullopt;
  return std::isnan(*a) || *a > *b ? a : b;  // what is not a number must not pass for the other one
}

void AddPerplexityBars(const EvaluationReport& report, BarList* bars) {
  const std::string need = "needs --perplexity with selector hash on books and on code, --budget ";
  const std::string copies = "needs --perplexity with selector hash, texts repeated and with a needle, on ";
  const auto ratio = [&](double budget, const char* texts, const char* kind) {
    return PerplexityRatio(report, budget, texts, kind);
  };
  bars->AtMost("perplexity of running text over oracle B's, 2%,", kMostRunning,
               Larger(ratio(kBudget, "books", "running"), ratio(kBudget, "code", "running")), need + "0.02");
  bars->AtMost("perplexity of running text over oracle B's, 5%,", kMostRunningWide,
               Larger(ratio(kWideBudget, "books", "running"), ratio(kWideBudget, "code", "running")), need + "0.05");
  bars->AtMost("perplexity of copied books over oracle B's", kMostCopyingBooks,
               Larger(ratio(kBudget, "books", "repeat"), ratio(kBudget, "books", "needle")), copies + "books");
  bars->AtMost("perplexity of copied code over oracle B's", kMostCopyingCode,
               Larger(ratio(kBudget, "code", "repeat"), ratio(kBudget, "code", "needle")), copies + "code");
}

}  // namespace

std::vector<QualityBar> CheckBars(const EvaluationReport& report, bool absolute) {
  const QualityRow* hash = FindRow(report.rows, kHash, kBudget, kContext, "all");
  BarList bars;
  if (absolute) AddAbsoluteBars(report, hash, &bars);
  AddRelativeBars(report, hash, &bars);
  AddPerplexityBars(report, &bars);
  return bars.Take();
}

bool AreDefaultTexts(const std::vector<EvaluationText>& texts) {
  namespace fs = std::filesystem;
  return !texts.empty() && std::all_of(texts.begin(), texts.end(), [](const EvaluationText& text) {
    return absl::StrContains(fs::absolute(text.path).lexically_normal().string(), "/training/texts/eval/");
  });
}

std::string ToTable(const std::vector<QualityBar>& bars) {
  size_t width = 0;
  for (const QualityBar& bar : bars) width = std::max(width, bar.what.size());
  std::string out;
  for (const QualityBar& bar : bars) {
    absl::StrAppendFormat(&out, "%-*s  ", static_cast<int>(width), bar.what);
    if (bar.result == BarResult::kSkipped) {
      absl::StrAppend(&out, "skipped: ", bar.reason, "\n");
    } else {
      absl::StrAppendFormat(&out, "%s  %.4f\n", bar.result == BarResult::kPass ? "pass" : "MISS", bar.value);
    }
  }
  const bool all_skipped =
      std::all_of(bars.begin(), bars.end(), [](const QualityBar& bar) { return bar.result == BarResult::kSkipped; });
  if (all_skipped) absl::StrAppend(&out, "no bar was checked, which is no pass\n");
  return out;
}

bool Passed(const std::vector<QualityBar>& bars) {
  const auto is = [](BarResult result) { return [result](const QualityBar& bar) { return bar.result == result; }; };
  return std::any_of(bars.begin(), bars.end(), is(BarResult::kPass)) &&
         std::none_of(bars.begin(), bars.end(), is(BarResult::kMiss));
}

}  // namespace spotlight::training
