#include "client/report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/message_json.h"

namespace spotlight::client {
namespace {

std::string Duration(double seconds) {
  return seconds < 0.9995 ? absl::StrFormat("%.3g ms", seconds * 1e3) : absl::StrFormat("%.1f s", seconds);
}

const char* ReasonWords(v1::DenseReason reason) {
  switch (reason) {
    case v1::DENSE_REASON_SHORT_CONTEXT:
      return "short context";
    case v1::DENSE_REASON_LAYER_POLICY:
      return "layer policy";
    case v1::DENSE_REASON_REQUEST_OVERRIDE:
      return "as requested";
    case v1::DENSE_REASON_GUARDRAIL:
      return "quality guardrail";
    case v1::DENSE_REASON_NO_HASH:
      return "no hash weights";
    default:
      return "reason not given";
  }
}

std::string Counts(const v1::Usage& usage) {
  std::string line = absl::StrCat("tokens:    ", usage.prompt_tokens(), " prompt");
  if (usage.cached_prompt_tokens() > 0) absl::StrAppend(&line, " (", usage.cached_prompt_tokens(), " cached)");
  absl::StrAppend(&line, " + ", usage.completion_tokens(), " generated");
  return line;
}

std::string End(const v1::GenerateStreamResponse& last) {
  std::string line;
  const auto* reason = v1::FinishReason_descriptor()->FindValueByNumber(last.finish_reason());
  if (reason != nullptr) absl::StrAppend(&line, "finish: ", EnumName(*reason));
  if (last.has_seed()) absl::StrAppend(&line, ", seed: ", last.seed());
  return line;
}

std::string Speed(const v1::Timings& timings) {
  std::string line;
  if (timings.mean_inter_token_seconds() > 0) {
    absl::StrAppend(&line, absl::StrFormat("%.1f tokens/s, ", 1 / timings.mean_inter_token_seconds()),
                    Duration(timings.mean_inter_token_seconds()), " between tokens, ");
  }
  return absl::StrCat(line, "first token after ", Duration(timings.time_to_first_token_seconds()), " (queued ",
                      Duration(timings.queue_seconds()), ")");
}

std::string QualityLine(const v1::RetrievalStats& stats) {
  std::string line = "quality:   ";
  if (stats.has_quality()) {
    const v1::RetrievalQuality& quality = stats.quality();
    absl::StrAppend(&line, quality.samples(), quality.samples() == 1 ? " sample" : " samples",
                    absl::StrFormat(": attention mass %.3f (lowest %.3f), recall %.2f, IoU %.2f, output error %.2g",
                                    quality.attention_mass(), quality.min_attention_mass(), quality.recall(),
                                    quality.iou(), quality.output_error()));
  }
  if (stats.has_fallback()) {
    const v1::RetrievalFallback& fallback = stats.fallback();
    absl::StrAppend(
        &line, stats.has_quality() ? "; " : "", "guardrail after ", fallback.after_tokens(), " tokens: ",
        fallback.has_budget_ratio() ? absl::StrFormat("budget raised to %.3g", fallback.budget_ratio()) : "dense");
  }
  return line + "\n";
}

}  // namespace

std::string DescribeRetrieval(const v1::RetrievalStats& stats) {
  const std::string reason = stats.dense_reason() == v1::DENSE_REASON_UNSPECIFIED
                                 ? ""
                                 : absl::StrCat(" (", ReasonWords(stats.dense_reason()), ")");
  std::string words;
  if (stats.sparse_steps() == 0) {
    words = stats.dense_steps() == 0 && reason.empty() ? "no decode step" : absl::StrCat("dense", reason);
  } else {
    words = absl::StrCat(stats.sparse_steps(), " sparse");
    if (stats.dense_steps() > 0) absl::StrAppend(&words, " + ", stats.dense_steps(), " dense");
    absl::StrAppend(&words, " steps", stats.dense_steps() > 0 ? reason : "",
                    absl::StrFormat(", attended to %.1f%% of context", stats.selected_ratio() * 100));
    if (stats.kv_dense_equivalent_bytes() > 0) {
      const double share = static_cast<double>(stats.kv_read_bytes()) / stats.kv_dense_equivalent_bytes();
      absl::StrAppend(&words, absl::StrFormat(", KV bytes read %.0f%% of dense", share * 100));
    }
  }
  if (stats.untrained_hash() && stats.sparse_steps() > 0) {
    absl::StrAppend(&words, "; the hash is untrained, the text's quality is meaningless");
  }
  return words;
}

std::string Report(const std::vector<v1::GenerateStreamResponse>& finishes) {
  std::string report;
  if (finishes.empty()) return report;
  const v1::GenerateStreamResponse& last = finishes.back();
  if (finishes.size() > 1) {
    if (last.has_usage()) absl::StrAppend(&report, Counts(last.usage()), " in ", finishes.size(), " samples\n");
    for (const v1::GenerateStreamResponse& sample : finishes) {
      absl::StrAppend(&report, "sample ", sample.index(), ":  ", End(sample));
      if (sample.has_timings()) absl::StrAppend(&report, ", ", Speed(sample.timings()));
      report += "\n";
    }
    return report;
  }
  if (last.has_usage()) absl::StrAppend(&report, Counts(last.usage()), ", ", End(last), "\n");
  if (last.has_timings()) absl::StrAppend(&report, "speed:     ", Speed(last.timings()), "\n");
  if (last.has_retrieval()) absl::StrAppend(&report, "retrieval: ", DescribeRetrieval(last.retrieval()), "\n");
  if (last.retrieval().has_quality() || last.retrieval().has_fallback()) report += QualityLine(last.retrieval());
  return report;
}

}  // namespace spotlight::client
