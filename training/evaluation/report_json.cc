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
  json["versions"] = {{"libtorch", report.libtorch_version}};
  json["seed"] = report.seed;
  json["queries"] = report.num_queries;
  json["prefilter_factor"] = report.prefilter_factor;
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
  // Names of texts and folders may be in any encoding.
  return json.dump(1, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace);
}

}  // namespace spotlight::training
