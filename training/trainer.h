// Trains a checkpoint's hash from texts and writes the hash file. No torch here: the server calls it too.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/load.h"
#include "training/recipe.h"

namespace spotlight::training {

// On a CPU the model's pass costs more than a step, and this many sequences' activations stay in memory.
inline constexpr int32_t kCpuSequences = 256;

struct TrainOptions {
  std::string model_folder;
  absl::optional<uint64_t> random_weights_seed;  // set: weights and tokens drawn from this seed (for measuring cost)
  std::vector<std::string> text_paths;           // files, or folders whose files are read in the order of their names
  std::string out;                               // the hash file; written whole or not at all
  Recipe recipe;                                 // steps, tokens_per_sequence 0: chosen for the device
  StoredWeights weights = StoredWeights::kInt8;  // of the file
  // To train on, evenly spread over the text; 0: as many as the steps use, on a CPU kCpuSequences at most.
  int32_t max_sequences = 0;
  std::string device = "auto";                             // cpu, cuda:N, "cuda" for every GPU of the machine, auto
  engine::DTypeChoice dtype = engine::DTypeChoice::kAuto;  // of the model's pass
  int32_t num_threads = 0;                                 // of the CPU; 0: one per core
  int64_t max_memory_bytes = 0;                            // on the training device; 0: what is free
  // Progress is kept in out + ".training" every so many seconds and resumed from; 0: never kept.
  double checkpoint_seconds = 60;
  bool replace_progress = false;  // of another run in the same place: begin anew; false: refuse
};

struct TrainProgress {
  int32_t step = 0, num_steps = 0;
  double loss = 0;                        // moving mean
  absl::optional<double> heldout_recall;  // when it was measured at this step
  double tokens_per_second = 0;
  double seconds_left = 0;
};

struct TrainReport {
  Recipe recipe;                              // with everything chosen
  int64_t num_sequences = 0, num_tokens = 0;  // trained on, distinct
  int64_t num_heldout_sequences = 0;
  double heldout_recall = 0, heldout_mass = 0, heldout_iou = 0;
  double seconds = 0;  // all runs that it took
  int64_t file_bytes = 0;
  int32_t resumed_at_step = 0;  // 0: begun anew
};

// Lines worth reading before the work starts (memory, sequences, device) go to `note`, steps to `progress`; both may be
// null and are called in the caller's thread. `stop` may be null; set, it ends the run after the step at hand.
// INVALID_ARGUMENT, NOT_FOUND: options, model or texts, the thing named, or `out` is a file of another kind;
// RESOURCE_EXHAUSTED: memory or disk. FAILED_PRECONDITION: progress of another model, recipe or corpus lies where this
// run's would. UNAVAILABLE: another process is making the same file. CANCELLED: stopped; the same call goes on from
// there.
absl::StatusOr<TrainReport> TrainHash(const TrainOptions& options, const std::function<void(const std::string&)>& note,
                                      const std::function<void(const TrainProgress&)>& progress,
                                      const std::atomic<bool>* stop = nullptr);

// TrainHash, or something in its place.
using TrainFunction = std::function<absl::StatusOr<TrainReport>(
    const TrainOptions&, const std::function<void(const std::string&)>& note,
    const std::function<void(const TrainProgress&)>& progress, const std::atomic<bool>* stop)>;

}  // namespace spotlight::training
