#include "client/process.h"
#include "client/run.h"

int main(int argc, char** argv) {
  return spotlight::client::RunAsProcess(argc, argv, spotlight::client::Run);
}
