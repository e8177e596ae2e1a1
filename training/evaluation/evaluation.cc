#include "training/evaluation/evaluation.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_folders.h"
#include "training/evaluation/end_to_end.h"
#include "training/evaluation/measured_sequence.h"
#include "training/evaluation/selectors/selector_list.h"
#include "training/sequence_model.h"
#include "training/torch_errors.h"

namespace spotlight::training {
namespace {

constexpr char kOracleB[] = "oracle-b";
// Layers before it are dense unless a hash file says otherwise.
constexpr int32_t kFirstLayer = 2;

bool WantsHash(const std::vector<std::string>& selectors) {
  return std::any_of(selectors.begin(), selectors.end(), [](const std::string& name) {
    return absl::StartsWith(name, "hash") && !absl::StrContains(name, ":");
  });
}

absl::StatusOr<std::string> FindHash(const EvaluationOptions& options, const SequenceModel& model) {
  if (options.hash != "auto") return options.hash;
  if (!WantsHash(options.selectors)) return std::string();
  std::string path =
      engine::FindHashFile(options.model_folder, engine::HashFolders(options.hash_folders), model.fingerprint());
  if (path.empty()) {
    return absl::NotFoundError(absl::StrCat("--hash auto: found no trained hash of ", options.model_folder,
                                            " in that folder, among the shipped ones or in ", engine::UserHashFolder(),
                                            "; name one, or leave the hash selectors out of --selectors"));
  }
  return path;
}

absl::Status CheckModel(const EvaluationOptions& options, const SequenceModel& model) {
  if (model.tokenizer() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(options.model_folder, ": has no tokenizer.json"));
  }
  for (const int64_t context : options.contexts) {
    if (context > model.config().max_context_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("--context ", context, ": the model's own limit is ",
                                                     model.config().max_context_tokens, " tokens"));
    }
  }
  return absl::OkStatus();
}

// Those of the hash that is judged, else all from kFirstLayer on.
std::vector<int32_t> LayersOf(const SelectorList& list, const engine::ModelConfig& config) {
  for (const auto& hash : list.hashes) {
    if (hash != nullptr) return hash->metadata.layers;
  }
  std::vector<int32_t> layers(std::max(1, config.num_layers - kFirstLayer));
  std::iota(layers.begin(), layers.end(), config.num_layers - static_cast<int32_t>(layers.size()));
  return layers;
}

// --hash, where it was asked for and can be served.
std::string ServedHash(const std::string& path, const SelectorList& list) {
  for (const auto& hash : list.hashes) {
    if (hash != nullptr && hash->path == path && !hash->symmetric && !hash->by_query_head) return path;
  }
  return "";
}

void Describe(const EvaluationOptions& options, const SequenceModel& model, const SelectorList& list,
              EvaluationReport* report) {
  const engine::ModelConfig& config = model.config();
  report->model_folder = options.model_folder;
  report->architecture = config.architecture;
  report->model_fingerprint = model.fingerprint();
  report->num_layers = config.num_layers;
  report->num_q_heads = config.num_q_heads;
  report->num_kv_heads = config.num_kv_heads;
  report->head_dim = config.head_dim;
  report->device = model.device().str();
  report->dtype = model.dtype() == at::kBFloat16 ? "bf16" : "fp32";
  report->quantization = engine::QuantizationName(options.quantization);
  report->kv_cache_dtype = engine::KvCacheDTypeName(options.kv_cache_dtype);
  report->libtorch_version = TORCH_VERSION;
  report->num_queries = options.num_queries;
  report->prefilter_factor = options.prefilter_factor;
  report->adaptive_share = options.adaptive_share;
  report->seed = options.seed;
  for (size_t i = 0; i < list.selectors.size(); ++i) {
    SelectorDescription description;
    description.name = list.selectors[i]->name();
    if (list.hashes[i] != nullptr) {
      description.hash_path = list.hashes[i]->path;
      description.hash = list.hashes[i]->metadata;
    }
    report->selectors.push_back(std::move(description));
  }
}

class Evaluation {
 public:
  Evaluation(const EvaluationOptions& options, const SequenceModel& model, const SelectorList& list,
             const EvaluationNote& note)
      : options_(options), model_(model), layers_(LayersOf(list, model.config())), note_(note) {
    for (const auto& selector : list.selectors) selectors_.push_back(selector.get());
  }

  absl::Status MeasureQuality(const std::vector<std::vector<TextSequence>>& by_context, EvaluationReport* report) {
    std::vector<SequenceResult> results;
    for (size_t c = 0; c < by_context.size(); ++c) {
      for (const TextSequence& sequence : by_context[c]) {
        auto measured = Measure(sequence, /*index=*/results.size());
        if (!measured.ok()) return measured.status();
        report->sequences.push_back(
            {sequence.text, sequence.kind, options_.contexts[c], sequence.index, measured->positions});
        results.push_back({options_.contexts[c], sequence.text, sequence.kind, *std::move(measured)});
      }
    }
    MeasuredAxes axes;
    for (const Selector* selector : selectors_) axes.selectors.push_back(selector->name());
    axes.budgets = options_.budgets;
    axes.layers = layers_;
    report->rows = QualityRows(results, axes);
    report->heads = HeadRows(results, axes);
    report->losses = HashLosses(report->rows);
    return absl::OkStatus();
  }

  const std::vector<Selector*>& selectors() const { return selectors_; }
  int32_t first_layer() const { return layers_.front(); }

 private:
  absl::StatusOr<MeasuredSequence> Measure(const TextSequence& sequence, size_t index) {
    MeasureOptions measure;
    measure.budgets = options_.budgets;
    measure.layers = layers_;
    measure.num_queries = options_.num_queries;
    measure.seed = options_.seed * 1000003 + index;
    const std::string what = absl::StrCat(sequence.token_ids.size(), " tokens, ", sequence.kind, "/", sequence.text);
    const auto layer_done = [&](int64_t done) { note_(what, done, static_cast<int64_t>(layers_.size())); };
    return MeasureSequence(model_, sequence.token_ids, selectors_, measure, layer_done);
  }

  const EvaluationOptions& options_;
  const SequenceModel& model_;
  const std::vector<int32_t> layers_;
  const EvaluationNote& note_;
  std::vector<Selector*> selectors_;
};

absl::StatusOr<EvaluationReport> EvaluateAll(const EvaluationOptions& options, const EvaluationNote& note) {
  if (options.num_threads > 0) at::set_num_threads(options.num_threads);
  // Texts first: what is wrong with them should not wait for a model to load.
  const auto texts = FindTexts(options.texts);
  if (!texts.ok()) return texts.status();
  SequenceModelOptions model_options;
  model_options.model_folder = options.model_folder;
  model_options.dtype = options.dtype;
  model_options.quantization = options.quantization;
  model_options.kv_cache_dtype = options.kv_cache_dtype;
  model_options.device = options.device;
  const auto model = SequenceModel::Load(model_options);
  if (!model.ok()) return model.status();
  if (absl::Status status = CheckModel(options, **model); !status.ok()) return status;
  const auto hash = FindHash(options, **model);
  if (!hash.ok()) return hash.status();

  SelectorListOptions list_options;
  list_options.names = options.selectors;
  const bool has_oracle = std::count(options.selectors.begin(), options.selectors.end(), kOracleB) > 0;
  if (!has_oracle) list_options.names.push_back(kOracleB);
  list_options.hash_path = *hash;
  list_options.prefilter_factor = options.prefilter_factor;
  list_options.adaptive_share = options.adaptive_share;
  list_options.seed = options.seed;
  const auto list = MakeSelectors(list_options, (*model)->config(), (*model)->fingerprint(), (*model)->device());
  if (!list.ok()) return list.status();

  std::vector<std::vector<TextSequence>> by_context;
  for (const int64_t context : options.contexts) {
    auto sequences = CutSequences(*texts, *(*model)->tokenizer(), context, options.num_sequences);
    if (!sequences.ok()) return sequences.status();
    by_context.push_back(*std::move(sequences));
  }

  Evaluation evaluation(options, **model, *list, note);
  EndToEndInput end_to_end;
  end_to_end.options = &options;
  end_to_end.model = model->get();
  end_to_end.selectors = evaluation.selectors();
  end_to_end.first_layer = evaluation.first_layer();
  end_to_end.served_hash = ServedHash(*hash, *list);
  const auto longest = std::max_element(options.contexts.begin(), options.contexts.end());
  end_to_end.sequences = by_context[longest - options.contexts.begin()];
  if (absl::Status status = CheckEndToEnd(end_to_end); !status.ok()) return status;

  EvaluationReport report;
  report.hash_path = *hash;
  report.texts = *texts;
  Describe(options, **model, *list, &report);
  if (absl::Status status = evaluation.MeasureQuality(by_context, &report); !status.ok()) return status;
  const auto progress = [&](const EvaluationProgress& step) { note(step.what, step.done, step.total); };
  if (absl::Status status = MeasureEndToEnd(end_to_end, progress, &report); !status.ok()) return status;
  return report;
}

}  // namespace

absl::StatusOr<EvaluationReport> Evaluate(const EvaluationOptions& options, const EvaluationNote& note) {
  absl::StatusOr<EvaluationReport> report = absl::UnknownError("not evaluated");
  const absl::Status caught = CatchTorch("evaluation", [&] {
    report = EvaluateAll(options, note);
    return absl::OkStatus();
  });
  if (!caught.ok()) return caught;
  return report;
}

}  // namespace spotlight::training
