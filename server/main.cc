#include "engine/load.h"
#include "server/program.h"

int main(int argc, char** argv) {
  return spotlight::server::RunProgram(argc, argv, spotlight::engine::LoadEngine);
}
