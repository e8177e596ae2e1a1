#include <cmath>

#include "nlohmann/json.hpp"
#include "training/evaluation/evaluation_report.h"

namespace spotlight::training {
namespace {

using nlohmann::ordered_json;

// More digits than the sampling resolves; infinities and NaN have no place in JSON.
ordered_json Rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e6) / 1e6;
}

void AddMeasures(const MeasureMeans& means, ordered_json* row) {
  for (int m = 0; m < kNumMeasures; ++m) (*row)[kMeasureNames[m]] = Rounded(means[m]);
}

ordered_json ToJson(const QualityRow& row) {
  ordered_json json = {{"selector", row.selector},
                       {"budget", row.budget},
                       {"context", row.context},
                       {"kind", row.kind},
                       {"sequences", row.num_sequences}};
  AddMeasures(row.mean, &json);
  json["mass_p1"] = Rounded(row.mass_p1);
  json["mass_c_of_oracle_b"] = Rounded(row.oracle_mass_c);
  json["err_of_oracle_b"] = Rounded(row.oracle_err);
  return json;
}

ordered_json ToJson(const HeadRow& row) {
  ordered_json json = {{"selector", row.selector},
                       {"budget", row.budget},
                       {"context", row.context},
                       {"layer", row.layer},
                       {"head", row.head}};
  AddMeasures(row.mean, &json);
  return json;
}

ordered_json ToJson(const HashLoss& loss) {
  ordered_json json = {{"hash", loss.hash}, {"budget", loss.budget}, {"context", loss.context}};
  if (loss.has_quantising) json["quantising"] = Rounded(loss.quantising);
  if (loss.has_prefilter) json["prefilter"] = Rounded(loss.prefilter);
  return json;
}

ordered_json ToJson(const PerplexityRow& row) {
  return {{"text", row.text},
          {"kind", row.kind},
          {"selector", row.selector},
          {"budget", row.budget},
          {"scored", row.num_scored},
          {"dense", Rounded(row.dense)},
          {"oracle_b", row.oracle_b > 0 ? Rounded(row.oracle_b) : ordered_json()},
          {"value", Rounded(row.value)},
          {"agreement", Rounded(row.agreement)},
          {"log_prob_gap", Rounded(row.log_prob_gap)}};
}

void AddCell(const std::string& task, int64_t length, const absl::optional<double>& depth, ordered_json* row) {
  (*row)["task"] = task;
  (*row)["length"] = length;
  if (depth.has_value()) (*row)["depth"] = *depth;
}

ordered_json ToJson(const TaskLikelihoodRow& row) {
  ordered_json json;
  AddCell(row.task, row.length, row.depth, &json);
  json.update({{"selector", row.selector},
               {"budget", row.budget},
               {"examples", row.num_examples},
               {"dense", Rounded(row.dense)},
               {"oracle_b", Rounded(row.oracle_b)},
               {"value", Rounded(row.value)},
               {"dense_right", Rounded(row.dense_right)},
               {"oracle_b_right", Rounded(row.oracle_b_right)},
               {"value_right", Rounded(row.value_right)}});
  return json;
}

ordered_json ToJson(const TaskAnswerRow& row) {
  ordered_json json;
  AddCell(row.task, row.length, row.depth, &json);
  json.update({{"budget", row.budget},
               {"examples", row.num_examples},
               {"dense", Rounded(row.dense)},
               {"value", Rounded(row.value)}});
  return json;
}

ordered_json ToJson(const FidelityRow& row) {
  return {{"text", row.text},
          {"budget", row.budget},
          {"prompt_tokens", row.prompt_tokens},
          {"tokens", row.num_tokens},
          {"first_divergence", row.first_divergence},
          {"equal_share", Rounded(row.equal_share)},
          {"agreement", Rounded(row.agreement)},
          {"judged", row.num_judged},
          {"selected_ratio", Rounded(row.selected_ratio)}};
}

ordered_json ToJson(const SelectorDescription& selector) {
  ordered_json json = {{"name", selector.name}};
  if (selector.hash_path.empty()) return json;
  json["hash"] = {{"path", selector.hash_path},
                  {"encoder", selector.hash.encoder},
                  {"scoring", selector.hash.scoring},
                  {"hash_bits", selector.hash.hash_bits},
                  {"planes", selector.hash.num_planes},
                  {"prefix_bits", selector.hash.prefix_bits},
                  {"trained", selector.hash.trained},
                  {"recipe", selector.hash.recipe},
                  {"corpus_sha256", selector.hash.corpus_sha256},
                  {"heldout", selector.hash.heldout}};
  return json;
}

ordered_json ToJson(const SequenceDescription& sequence) {
  return {{"text", sequence.text},
          {"kind", sequence.kind},
          {"context", sequence.context},
          {"index", sequence.index},
          {"positions", sequence.positions}};
}

template <typename Row>
ordered_json ToArray(const std::vector<Row>& rows) {
  ordered_json array = ordered_json::array();
  for (const Row& row : rows) array.push_back(ToJson(row));
  return array;
}

}  // namespace

std::string ToJson(const EvaluationReport& report) {
  ordered_json json;
  json["format"] = "spotlight-eval-1";
  json["model"] = {{"folder", report.model_folder},
                   {"architecture", report.architecture},
                   {"fingerprint", report.model_fingerprint},
                   {"num_layers", report.num_layers},
                   {"num_q_heads", report.num_q_heads},
                   {"num_kv_heads", report.num_kv_heads},
                   {"head_dim", report.head_dim}};
  json["hash"] = report.hash_path.empty() ? ordered_json() : ordered_json(report.hash_path);
  json["device"] = report.device;
  json["dtype"] = report.dtype;
  json["quantization"] = report.quantization;
  json["kv_cache_dtype"] = report.kv_cache_dtype;
  json["versions"] = {{"libtorch", report.libtorch_version}};
  json["seed"] = report.seed;
  json["queries"] = report.num_queries;
  json["prefilter_factor"] = report.prefilter_factor;
  json["adaptive_share"] = report.adaptive_share;
  json["texts"] = ordered_json::array();
  for (const EvaluationText& text : report.texts) {
    json["texts"].push_back({{"path", text.path}, {"name", text.name}, {"kind", text.kind}});
  }
  json["sequences"] = ToArray(report.sequences);
  json["selectors"] = ToArray(report.selectors);
  json["rows"] = ordered_json::array();
  json["kinds"] = ordered_json::array();
  for (const QualityRow& row : report.rows) json[row.kind == "all" ? "rows" : "kinds"].push_back(ToJson(row));
  json["heads"] = ToArray(report.heads);
  json["losses"] = ToArray(report.losses);
  json["perplexity"] = ToArray(report.perplexity);
  json["needle"] = ToArray(report.needle);
  json["needle_answers"] = ToArray(report.needle_answers);
  json["tasks"] = ToArray(report.tasks);
  json["task_answers"] = ToArray(report.task_answers);
  json["fidelity"] = ToArray(report.fidelity);
  json["notes"] = report.notes;
  // Names of texts and folders may be in any encoding.
  return json.dump(1, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace);
}

}  // namespace spotlight::training
