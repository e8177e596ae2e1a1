#include "command_line/bound_spinning.h"
#include "training/train_program.h"
#include "training/trainer.h"

int main(int argc, char** argv) {
  spotlight::command_line::BoundSpinning(argv);
  return spotlight::training::RunTrainProgram(argc, argv, spotlight::training::TrainHash);
}
