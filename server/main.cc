#include "command_line/bound_spinning.h"
#include "engine/load.h"
#include "server/program.h"
#include "server/train_on_load.h"
#include "training/trainer.h"

int main(int argc, char** argv) {
  spotlight::command_line::BoundSpinning(argv);
  return spotlight::server::RunProgram(
      argc, argv, spotlight::server::TrainingLoader(spotlight::engine::LoadEngine, spotlight::training::TrainHash));
}
