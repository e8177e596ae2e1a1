#include "training/train_program.h"
#include "training/trainer.h"

int main(int argc, char** argv) {
  return spotlight::training::RunTrainProgram(argc, argv, spotlight::training::TrainHash);
}
