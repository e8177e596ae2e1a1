// All that one run of spotlight-eval found, as JSON and as tables. No torch.
//
// JSON: {format, model, hash, selectors, device, dtype, quantization, kv_cache_dtype, versions, seed, queries, texts,
// sequences, rows, kinds, heads, losses, perplexity, ...}; rows: [{selector, budget, context, sequences, iou_a, rec_b,
// iou_b, mass_c, mass, err, group_mass_c, group_err, selected, mass_p1, mass_c_of_oracle_b, err_of_oracle_b}], kinds
// the same by kind of text, heads the same by layer and KV head. training/evaluation/README.md says what each means.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/hash_file_metadata.h"
#include "training/evaluation/evaluation_texts.h"
#include "training/evaluation/fidelity.h"
#include "training/evaluation/perplexity.h"
#include "training/evaluation/quality_rows.h"
#include "training/evaluation/task_scores.h"

namespace spotlight::training {

struct SelectorDescription {
  std::string name;
  std::string hash_path;  // empty: no file
  engine::HashFileMetadata hash;
};

// What was measured where, for whoever measures it again.
struct SequenceDescription {
  std::string text, kind;
  int64_t context = 0, index = 0;  // index: of the text's sequences
  std::vector<int64_t> positions;  // of the queries
};

struct EvaluationReport {
  std::string model_folder, architecture, model_fingerprint;
  int32_t num_layers = 0, num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::string device, dtype, quantization, kv_cache_dtype, libtorch_version;
  int32_t num_queries = 0, prefilter_factor = 0;
  double adaptive_share = 0;
  uint64_t seed = 0;
  std::string hash_path;  // --hash, found; empty: none
  std::vector<SelectorDescription> selectors;
  std::vector<EvaluationText> texts;
  std::vector<SequenceDescription> sequences;

  std::vector<QualityRow> rows;  // of all kinds
  std::vector<HeadRow> heads;
  std::vector<HashLoss> losses;
  std::vector<PerplexityRow> perplexity;
  std::vector<TaskLikelihoodRow> needle, tasks;
  std::vector<TaskAnswerRow> needle_answers, task_answers;
  std::vector<FidelityRow> fidelity;
  std::vector<std::string> notes;  // what was asked for and left out, and why
};

std::string ToJson(const EvaluationReport& report);

// Aligned columns, one row for each selector and budget.
std::string ToTable(const EvaluationReport& report);

}  // namespace spotlight::training
