// The fake collector as a program: prints its endpoint, then each export that it takes as a line of JSON, until its
// standard input ends.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

#include "google/protobuf/util/json_util.h"
#include "tests/testing/fake_collector.h"

int main() {
  spotlight::testing::FakeCollector collector;
  std::printf("%s\n", collector.endpoint().c_str());
  std::fflush(stdout);
  std::thread([] {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    std::_Exit(0);
  }).detach();
  while (true) {
    std::string line;
    if (!google::protobuf::util::MessageToJsonString(collector.TakeRequest(), &line).ok()) return 1;
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }
}
