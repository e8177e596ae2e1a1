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

EngineLoader TrainingLoader(EngineLoader load_engine, training::TrainFunction train) {
  return
      [load_engine = std::move(load_engine), train = std::move(train)](
          const engine::LoadOptions& options, engine::StatsObserver* observer) -> absl::StatusOr<engine::LoadedEngine> {
        absl::string_view texts = options.hash;
        if (!absl::ConsumePrefix(&texts, kTrainPrefix)) return load_engine(options, observer);
        const auto path = training::FindOrTrainHash(
            options, absl::StrSplit(texts, ',', absl::SkipEmpty()), train,
            [](const std::string& note) { spdlog::info("{}", note); }, ProgressLog());
        if (!path.ok()) return path.status();
        engine::LoadOptions with_file = options;
        with_file.hash = *path;
        return load_engine(with_file, observer);
      };
}

}  // namespace spotlight::server
