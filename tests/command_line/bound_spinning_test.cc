// Starts itself anew before it tests: main is what is tested.
#include "command_line/bound_spinning.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace spotlight::command_line {
namespace {

constexpr char kStarted[] = "BOUND_SPINNING_TEST_STARTED";

TEST(BoundSpinningTest, SecondStartHasTheBound) {
  ASSERT_NE(std::getenv("GOMP_SPINCOUNT"), nullptr);
  EXPECT_EQ(std::string(std::getenv("GOMP_SPINCOUNT")), "3000");
}

TEST(BoundSpinningTest, ProcessKeepsItsName) {
  constexpr size_t kMostOfAName = 15;  // the kernel keeps
  std::string name;
  std::getline(std::ifstream("/proc/self/comm") >> std::ws, name);
  EXPECT_EQ(name, std::filesystem::read_symlink("/proc/self/exe").filename().string().substr(0, kMostOfAName));
}

}  // namespace
}  // namespace spotlight::command_line

int main(int argc, char** argv) {
  if (std::getenv(spotlight::command_line::kStarted) == nullptr) {
    setenv(spotlight::command_line::kStarted, "1", /*overwrite=*/1);
    unsetenv("GOMP_SPINCOUNT");
    unsetenv("OMP_WAIT_POLICY");
  }
  spotlight::command_line::BoundSpinning(argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
