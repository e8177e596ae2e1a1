#include "training/trainer.h"

#include <ATen/Parallel.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/model/config.h"
#include "training/corpus.h"
#include "training/data_parallel.h"
#include "training/hash_file_output.h"
#include "training/memory_plan.h"
#include "training/output_lock.h"
#include "training/sequence_model.h"
#include "training/text_files.h"
#include "training/torch_errors.h"
#include "training/training_run.h"
#include "training/worker.h"

namespace spotlight::training {
namespace {

// Of text, for each token that is trained on: more would only be tokenised and left out.
constexpr int64_t kMaxBytesPerToken = 16;
// Fewer leave nothing between sinks and recent tokens to choose from.
constexpr int32_t kMinTokensPerSequence = 256;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::StatusOr<std::vector<at::Device>> Devices(const std::string& name) {
  if (name != "cuda") {
    auto device = engine::ResolveDevice(name);
    if (!device.ok()) return device.status();
    return std::vector<at::Device>{*device};
  }
  std::vector<at::Device> devices;
  for (int i = 0; i < c10::cuda::device_count(); ++i) {
    devices.emplace_back(at::kCUDA, static_cast<at::DeviceIndex>(i));
  }
  if (devices.empty()) return Invalid("device: cuda is not there; this machine has no usable CUDA device");
  return devices;
}

// Fills in what was left to be chosen, and says so.
absl::Status ChooseLengths(const engine::ModelConfig& config, at::Device device, Recipe& recipe, std::string& note) {
  const char* where = device.is_cuda() ? "a GPU" : "a CPU";
  if (recipe.steps < 0 || recipe.tokens_per_sequence < 0) {
    return Invalid(absl::StrCat("--steps and --tokens-per-sequence must be at least 1 (0: chosen for the device), are ",
                                recipe.steps, " and ", recipe.tokens_per_sequence));
  }
  if (recipe.tokens_per_sequence == 0) {
    recipe.tokens_per_sequence = std::min(device.is_cuda() ? 4096 : 1024, config.max_context_tokens);
    absl::StrAppend(&note, recipe.tokens_per_sequence, " tokens per sequence");
  }
  if (recipe.steps == 0) {
    recipe.steps = device.is_cuda() ? 6000 : 2400;
    absl::StrAppend(&note, note.empty() ? "" : ", ", recipe.steps, " steps");
  }
  if (recipe.target_context == 0) recipe.target_context = config.max_context_tokens;
  if (!note.empty()) absl::StrAppend(&note, ": the defaults on ", where, " (--tokens-per-sequence, --steps)");
  if (recipe.tokens_per_sequence < kMinTokensPerSequence || recipe.tokens_per_sequence > config.max_context_tokens) {
    return Invalid(absl::StrCat("--tokens-per-sequence: must be in [", kMinTokensPerSequence, ", ",
                                config.max_context_tokens, "] (the model's context), is ", recipe.tokens_per_sequence));
  }
  if (recipe.queries_per_step > recipe.tokens_per_sequence) {
    return Invalid(absl::StrCat("--queries-per-step: must be at most ", recipe.tokens_per_sequence,
                                ", the tokens of a sequence, is ", recipe.queries_per_step));
  }
  if (recipe.first_layer < 0 || recipe.first_layer >= config.num_layers) {
    return Invalid(absl::StrCat("--first-layer: must be in [0, ", config.num_layers - 1, "] for a model of ",
                                config.num_layers, " layers, is ", recipe.first_layer));
  }
  return absl::OkStatus();
}

void Say(const std::function<void(const std::string&)>& note, const std::string& line) {
  if (note != nullptr) note(line);
}

absl::StatusOr<std::unique_ptr<SequenceModel>> LoadModel(const TrainOptions& options, at::Device device) {
  SequenceModelOptions model;
  model.model_folder = options.model_folder;
  model.random_weights_seed = options.random_weights_seed;
  model.dtype = options.dtype;
  model.device = device.str();
  return SequenceModel::Load(model);
}

// How many sequences to train on, as far as the text has them.
struct Wanted {
  int32_t max_sequences = 0;  // 0: no limit but the steps
  int64_t sequences = 0;
};

Wanted WantedSequences(const TrainOptions& options, const Recipe& recipe, const std::vector<at::Device>& devices) {
  Wanted wanted;
  wanted.max_sequences = options.max_sequences;
  if (wanted.max_sequences == 0 && devices.front().is_cpu()) wanted.max_sequences = kCpuSequences;
  wanted.sequences = recipe.steps * static_cast<int64_t>(devices.size());
  if (wanted.max_sequences > 0) wanted.sequences = std::min<int64_t>(wanted.sequences, wanted.max_sequences);
  return wanted;
}

absl::StatusOr<TextFiles> ReadTexts(const TrainOptions& options, const Recipe& recipe, const Wanted& wanted) {
  if (options.random_weights_seed.has_value()) return TextFiles();
  return ReadTextFiles(options.text_paths, kMaxBytesPerToken * (wanted.sequences + 4) * recipe.tokens_per_sequence);
}

absl::StatusOr<Corpus> CorpusOf(const TrainOptions& options, const Recipe& recipe, const Wanted& wanted,
                                const TextFiles& files, const SequenceModel& model,
                                const std::function<void(const std::string&)>& note) {
  if (options.random_weights_seed.has_value()) {
    Say(note, "random weights, random tokens: what comes out is good for measuring cost only");
    return RandomCorpus(model.config().vocab_size, recipe.tokens_per_sequence,
                        std::max<int64_t>(wanted.sequences, 2) + 4, *options.random_weights_seed);
  }
  auto corpus = MakeCorpus(files, *model.tokenizer(), model.config(), recipe.tokens_per_sequence);
  if (!corpus.ok()) return corpus.status();
  std::string line =
      absl::StrCat("text: ", files.num_files, files.num_files == 1 ? " file, " : " files, ",
                   FormatBytes(files.num_bytes), ", ", corpus->num_tokens, " tokens: ", corpus->train.size(),
                   " sequences of ", recipe.tokens_per_sequence, " to train on, ", corpus->heldout.size(),
                   " held out, ", corpus->num_dropped_tokens, " tokens at the end left over");
  if (files.num_skipped_files > 0) {
    absl::StrAppend(&line, "; ", files.num_skipped_files, " files that are not UTF-8 text passed over");
  }
  if (files.num_bytes < files.total_bytes) {
    absl::StrAppend(&line, "; an even share of ", FormatBytes(files.total_bytes), ", as much as the steps can use");
  }
  const auto found = static_cast<int64_t>(corpus->train.size());
  LimitSequences(wanted.max_sequences, *corpus);
  if (wanted.max_sequences > 0 && found > wanted.max_sequences) {
    absl::StrAppend(&line, "; ", wanted.max_sequences, " of them used (--sequences)");
  }
  Say(note, line);
  return corpus;
}

absl::Status CheckOptions(const TrainOptions& options) {
  if (options.model_folder.empty()) return Invalid("no model: name a checkpoint folder");
  if (options.out.empty()) return Invalid("no output: name the hash file to write");
  if (options.text_paths.empty() && !options.random_weights_seed.has_value()) {
    return Invalid("no text: name at least one file or folder");
  }
  for (const std::string& path : options.text_paths) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainReport> Train(const TrainOptions& options, const std::function<void(const std::string&)>& note,
                                  const std::function<void(const TrainProgress&)>& progress,
                                  const std::atomic<bool>* stop) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  const auto lock = OutputLock::Acquire(options.out);
  if (!lock.ok()) return lock.status();
  if (absl::Status status = CheckReplaceable(options.out); !status.ok()) return status;
  if (options.num_threads > 0) at::set_num_threads(options.num_threads);
  auto devices = Devices(options.device);
  if (!devices.ok()) return devices.status();
  const auto config = engine::LoadModelConfig(options.model_folder);
  if (!config.ok()) return config.status();
  TrainingTask task;
  task.recipe = options.recipe;
  task.max_memory_bytes = options.max_memory_bytes;
  task.stop = stop;
  std::string chosen;
  if (absl::Status status = ChooseLengths(*config, devices->front(), task.recipe, chosen); !status.ok()) return status;

  // Texts first: what is wrong with them should not wait for a model to load.
  const Wanted wanted = WantedSequences(options, task.recipe, *devices);
  auto files = ReadTexts(options, task.recipe, wanted);
  if (!files.ok()) return files.status();
  auto model = LoadModel(options, devices->front());
  if (!model.ok()) return model.status();
  Say(note, absl::StrCat("model: ", options.model_folder, ", ", config->num_layers, " layers (",
                         config->num_layers - task.recipe.first_layer, " to hash), ",
                         (*model)->dtype() == at::kFloat ? "fp32" : "bf16", " on ",
                         devices->size() > 1 ? absl::StrCat(devices->size(), " GPUs") : devices->front().str()));
  if (!chosen.empty()) Say(note, chosen);
  const auto corpus = CorpusOf(options, task.recipe, wanted, *files, **model, note);
  if (!corpus.ok()) return corpus.status();
  *files = TextFiles();
  if (corpus->train.size() < devices->size()) devices->resize(corpus->train.size(), devices->front());
  task.corpus = &*corpus;
  DataParallel group(*devices);
  task.group = &group;

  TrainingRun run(options, task, note, progress, stop);
  std::vector<std::thread> others;
  std::vector<absl::Status> statuses(devices->size());
  for (size_t rank = 1; rank < devices->size(); ++rank) {
    others.emplace_back([&, rank] {
      statuses[rank] = run.RunWorker(static_cast<int32_t>(rank), LoadModel(options, (*devices)[rank]));
    });
  }
  statuses[0] = run.RunWorker(0, std::move(model));
  for (std::thread& other : others) other.join();
  for (const absl::Status& status : statuses) {
    if (!status.ok() && !absl::IsAborted(status)) return status;  // aborted: because of another one
  }
  return run.report();
}

void GiveMemoryBack() {
  if (c10::cuda::device_count() > 0) c10::cuda::CUDACachingAllocator::emptyCache();
  malloc_trim(0);
}

}  // namespace

absl::StatusOr<TrainReport> TrainHash(const TrainOptions& options, const std::function<void(const std::string&)>& note,
                                      const std::function<void(const TrainProgress&)>& progress,
                                      const std::atomic<bool>* stop) {
  absl::StatusOr<TrainReport> report = absl::UnknownError("not run");
  const absl::Status caught = CatchTorch("training", [&] {
    report = Train(options, note, progress, stop);
    return absl::OkStatus();
  });
  GiveMemoryBack();
  if (!caught.ok()) return caught;
  return report;
}

}  // namespace spotlight::training
