#include "command_line/bound_spinning.h"
#include "engine/load.h"
#include "server/program.h"

int main(int argc, char** argv) {
  spotlight::command_line::BoundSpinning(argv);
  return spotlight::server::RunProgram(argc, argv, spotlight::engine::LoadEngine);
}
