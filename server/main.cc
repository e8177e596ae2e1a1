#include "command_line/bound_spinning.h"
#include "engine/load.h"
#include "server/program.h"
#include "server/train_on_load.h"
#include "training/trainer.h"

int main(int argc, char** argv) {
  spotlight::command_line::BoundSpinning(argv);
  spotlight::server::TrainingLoader loader(spotlight::engine::LoadEngine, spotlight::training::TrainHash);
  return spotlight::server::RunProgram(
      argc, argv,
      [&loader](const spotlight::engine::LoadOptions& options, spotlight::engine::StatsObserver* observer) {
        return loader.Load(options, observer);
      },
      [&loader] { return loader.Stop(); });
}
