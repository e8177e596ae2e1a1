#include "training/find_or_train.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/fingerprint.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_folders.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kWaitInterval = absl::Milliseconds(500);

absl::StatusOr<std::string> Fingerprint(const engine::LoadOptions& load) {
  const auto config = engine::LoadModelConfig(load.model_folder);
  if (!config.ok()) return config.status();
  if (load.random_weights_seed.has_value()) return engine::RandomWeightsFingerprint(*config, *load.random_weights_seed);
  const auto checkpoint = engine::Checkpoint::Open(load.model_folder);
  if (!checkpoint.ok()) return checkpoint.status();
  return engine::CheckpointFingerprint(**checkpoint, *config);
}

// As a part of a file name: models are often called OWNER/NAME.
std::string ModelName(const engine::LoadOptions& load) {
  if (!load.model_name.empty()) return absl::StrReplaceAll(load.model_name, {{"/", "-"}});
  std::error_code ignored;  // a folder that was read a moment ago
  return fs::weakly_canonical(load.model_folder, ignored).filename().string();
}

absl::StatusOr<std::string> PathForNewFile(const engine::LoadOptions& load, const std::string& fingerprint) {
  std::error_code error;
  const std::string own = absl::StrCat(load.model_folder, "/", engine::kHashFileName);
  const bool is_free = access(load.model_folder.c_str(), W_OK) == 0 && !fs::exists(own, error);
  // Random weights are not what the folder holds.
  if (is_free && !load.random_weights_seed.has_value()) return own;
  const std::string folder = engine::UserHashFolder();
  fs::create_directories(folder, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("no place for the hash file: ", load.model_folder,
                                                   " cannot be written to, and ", folder,
                                                   " cannot be created: ", error.message()));
  }
  return absl::StrCat(folder, "/", ModelName(load), "-", fingerprint.substr(0, 12), ".safetensors");
}

}  // namespace

absl::StatusOr<std::string> FindOrTrainHash(const engine::LoadOptions& load, const std::vector<std::string>& text_paths,
                                            const TrainFunction& train,
                                            const std::function<void(const std::string&)>& note,
                                            const std::function<void(const TrainProgress&)>& progress,
                                            const std::atomic<bool>* stop) {
  const auto fingerprint = Fingerprint(load);
  if (!fingerprint.ok()) return fingerprint.status();
  const auto find = [&] {
    return engine::FindHashFile(load.model_folder, engine::HashFolders(load.hash_folders), *fingerprint);
  };
  if (std::string found = find(); !found.empty()) {
    note(absl::StrCat("this model's hash is there, nothing to train: ", found));
    return found;
  }
  const auto path = PathForNewFile(load, *fingerprint);
  if (!path.ok()) return path.status();
  TrainOptions options;
  options.model_folder = load.model_folder;
  options.random_weights_seed = load.random_weights_seed;
  options.text_paths = text_paths;
  options.out = *path;
  options.recipe.steps = options.recipe.tokens_per_sequence = 0;
  options.device = load.device;
  options.dtype = load.dtype;
  options.num_threads = load.num_threads;
  options.replace_progress = true;
  note(absl::StrCat("this model has no hash yet: training one, to be kept in ", *path));
  auto report = train(options, note, progress, stop);
  for (bool said = false; absl::IsUnavailable(report.status()); said = true) {
    if (!said) note(absl::StrCat(report.status().message(), "; waiting for it"));
    if (stop != nullptr && stop->load()) return absl::CancelledError("stopped while another process made the hash");
    absl::SleepFor(kWaitInterval);
    if (std::string found = find(); !found.empty()) {
      note(absl::StrCat("the other process has made this model's hash: ", found));
      return found;
    }
    report = train(options, note, progress, stop);
  }
  if (!report.ok()) return report.status();
  note(absl::StrFormat("hash trained in %.0f s: held-out recall %.3f, attention mass %.3f, IoU %.3f", report->seconds,
                       report->heldout_recall, report->heldout_mass, report->heldout_iou));
  return *path;
}

}  // namespace spotlight::training
