#include "server/train_on_load.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

constexpr absl::Duration kLogInterval = absl::Seconds(10);

// Steps are many: a line every few seconds.
class ProgressLog {
 public:
  void operator()(const training::TrainProgress& progress) {
    if (progress.heldout_recall.has_value())
      recall_ = absl::StrFormat(", held-out recall %.3f", *progress.heldout_recall);
    if (absl::Now() < next_) return;
    next_ = absl::Now() + kLogInterval;
    spdlog::info("training the hash: step {} of {}, loss {:.3f}{}, {:.0f} s left", progress.step, progress.num_steps,
                 progress.loss, recall_, progress.seconds_left);
  }

 private:
  absl::Time next_ = absl::InfinitePast();
  std::string recall_;  // empty until it was measured
};

}  // namespace

TrainingLoader::TrainingLoader(EngineLoader load_engine, training::TrainFunction train)
    : load_engine_(std::move(load_engine)), train_(std::move(train)) {}

absl::StatusOr<engine::LoadedEngine> TrainingLoader::Load(const engine::LoadOptions& options,
                                                          engine::StatsObserver* observer) {
  absl::string_view texts = options.hash;
  if (!absl::ConsumePrefix(&texts, kTrainPrefix)) return load_engine_(options, observer);
  training_ = true;
  const auto path = training::FindOrTrainHash(
      options, absl::StrSplit(texts, ',', absl::SkipEmpty()), train_,
      [](const std::string& note) { spdlog::info("{}", note); }, ProgressLog(), &stop_);
  training_ = false;
  if (!path.ok()) return path.status();
  engine::LoadOptions with_file = options;
  with_file.hash = *path;
  return load_engine_(with_file, observer);
}

bool TrainingLoader::Stop() {
  stop_ = true;
  return training_;
}

}  // namespace spotlight::server
