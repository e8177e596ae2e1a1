#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "training/evaluation/evaluation_report.h"

namespace spotlight::training {
namespace {

double Of(const QualityRow& row, Measure measure) {
  return row.mean[static_cast<int>(measure)];
}

std::string Percent(double share) {
  return absl::StrFormat("%g%%", 100 * share);
}

int WidthOfNames(const EvaluationReport& report) {
  size_t width = 14;
  for (const SelectorDescription& selector : report.selectors) width = std::max(width, selector.name.size());
  return static_cast<int>(width);
}

std::string QualityTable(const EvaluationReport& report, int width) {
  std::string out =
      absl::StrFormat("%-*s %7s %7s %6s %6s %6s %6s %6s %6s %6s %6s %6s %8s\n", width, "selector", "context", "budget",
                      "iouA", "recB", "iouB", "massC", "/B's", "mass", "p1", "err", "/B's", "tokens");
  for (const QualityRow& row : report.rows) {
    if (row.kind != "all") continue;
    const auto relative = [](double value, double best) {
      return best > 0 ? absl::StrFormat("%6.3f", value / best) : std::string("     -");
    };
    absl::StrAppendFormat(&out, "%-*s %7d %7s %6.3f %6.3f %6.3f %6.3f %s %6.3f %6.3f %6.3f %s %8.1f\n", width,
                          row.selector, row.context, Percent(row.budget), Of(row, Measure::kIouA),
                          Of(row, Measure::kRecB), Of(row, Measure::kIouB), Of(row, Measure::kMassC),
                          relative(Of(row, Measure::kMassC), row.oracle_mass_c), Of(row, Measure::kMass), row.mass_p1,
                          Of(row, Measure::kErr), relative(Of(row, Measure::kErr), row.oracle_err),
                          Of(row, Measure::kSelected));
  }
  return out;
}

std::string LossLines(const EvaluationReport& report) {
  std::string out;
  for (const HashLoss& loss : report.losses) {
    absl::StrAppendFormat(&out, "%s at %d tokens, %s: recB lost", loss.hash, loss.context, Percent(loss.budget));
    if (loss.has_quantising) absl::StrAppendFormat(&out, " by quantising %.4f", loss.quantising);
    if (loss.has_quantising && loss.has_prefilter) absl::StrAppend(&out, ",");
    if (loss.has_prefilter) absl::StrAppendFormat(&out, " by the prefilter %.4f", loss.prefilter);
    absl::StrAppend(&out, "\n");
  }
  return out;
}

std::string PerplexityTable(const EvaluationReport& report, int width) {
  if (report.perplexity.empty()) return "";
  size_t text_width = 4;
  for (const PerplexityRow& row : report.perplexity) text_width = std::max(text_width, row.text.size());
  std::string out =
      absl::StrFormat("\n%-*s %-7s %-*s %7s %9s %9s %9s %7s %7s\n", static_cast<int>(text_width), "text", "kind", width,
                      "selector", "budget", "dense", "oracle-b", "perplexity", "/B's", "agree");
  for (const PerplexityRow& row : report.perplexity) {
    absl::StrAppendFormat(&out, "%-*s %-7s %-*s %7s %9.4f %9.4f %9.4f %7.4f %7.4f\n", static_cast<int>(text_width),
                          row.text, row.kind, width, row.selector, Percent(row.budget), row.dense, row.oracle_b,
                          row.value, row.oracle_b > 0 ? row.value / row.oracle_b : 0.0, row.agreement);
  }
  return out;
}

std::string LikelihoodTable(const char* title, const std::vector<TaskLikelihoodRow>& rows, int width) {
  if (rows.empty()) return "";
  std::string out = absl::StrFormat("\n%-16s %7s %5s %-*s %7s %8s %8s %8s %6s %6s\n", title, "length", "depth", width,
                                    "selector", "budget", "dense", "oracle-b", "log-prob", "right", "dense");
  for (const TaskLikelihoodRow& row : rows) {
    const std::string depth = row.depth.has_value() ? absl::StrFormat("%g", *row.depth) : "-";
    absl::StrAppendFormat(&out, "%-16s %7d %5s %-*s %7s %8.3f %8.3f %8.3f %6.2f %6.2f\n", row.task, row.length, depth,
                          width, row.selector, Percent(row.budget), row.dense, row.oracle_b, row.value, row.value_right,
                          row.dense_right);
  }
  return out;
}

std::string AnswerTable(const char* title, const std::vector<TaskAnswerRow>& rows) {
  if (rows.empty()) return "";
  std::string out =
      absl::StrFormat("\n%-16s %7s %5s %7s %6s %6s\n", title, "length", "depth", "budget", "dense", "hash");
  for (const TaskAnswerRow& row : rows) {
    const std::string depth = row.depth.has_value() ? absl::StrFormat("%g", *row.depth) : "-";
    absl::StrAppendFormat(&out, "%-16s %7d %5s %7s %6.2f %6.2f\n", row.task, row.length, depth, Percent(row.budget),
                          row.dense, row.value);
  }
  return out;
}

std::string FidelityTable(const std::vector<FidelityRow>& rows) {
  if (rows.empty()) return "";
  size_t width = 8;
  for (const FidelityRow& row : rows) width = std::max(width, row.text.size());
  std::string out = absl::StrFormat("\n%-*s %7s %7s %7s %6s %7s\n", static_cast<int>(width), "fidelity", "prompt",
                                    "budget", "diverge", "equal", "agree");
  for (const FidelityRow& row : rows) {
    absl::StrAppendFormat(&out, "%-*s %7d %7s %7d %6.3f %7.3f\n", static_cast<int>(width), row.text, row.prompt_tokens,
                          Percent(row.budget), row.first_divergence, row.equal_share, row.agreement);
  }
  return out;
}

}  // namespace

std::string ToTable(const EvaluationReport& report) {
  const int width = WidthOfNames(report);
  std::string notes;
  for (const std::string& note : report.notes) absl::StrAppend(&notes, "\nnote: ", note, "\n");
  return absl::StrCat(QualityTable(report, width), LossLines(report), PerplexityTable(report, width),
                      LikelihoodTable("needle", report.needle, width),
                      AnswerTable("needle, answers", report.needle_answers),
                      LikelihoodTable("task", report.tasks, width), AnswerTable("task, answers", report.task_answers),
                      FidelityTable(report.fidelity), notes);
}

}  // namespace spotlight::training
