#include "engine/gpu_presence.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace spotlight::engine {
namespace {

constexpr char kCudaError[] = "no CUDA-capable device is detected";

class GpuPresenceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Unset();
    folder_ = ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    mkdir(folder_.c_str(), 0700);
    mkdir((folder_ + "/gpus").c_str(), 0700);
  }
  void TearDown() override { Unset(); }

  static void Unset() {
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("NVIDIA_VISIBLE_DEVICES");
  }
  void Touch(const std::string& name) { ASSERT_TRUE(std::ofstream(folder_ + name)) << name; }
  // As GpuPathPatterns, in the test's folder.
  absl::StatusOr<std::string> Reason() const {
    return ReasonForCpu(kCudaError, {folder_ + "/nvidia[0-9]*", folder_ + "/gpus/*"});
  }

  std::string folder_;
};

TEST_F(GpuPresenceTest, AMachineWithoutGpusServesOnItsCpu) {
  for (const char* const name : {"/nvidiactl", "/nvidia-uvm", "/null"}) Touch(name);  // the driver's, of no one GPU
  const auto reason = Reason();
  ASSERT_TRUE(reason.ok()) << reason.status();
  EXPECT_EQ(*reason, "no NVIDIA GPU is there");
}

TEST_F(GpuPresenceTest, ADeviceNodeThatCudaCannotUseIsRefusedWithCudasReason) {
  Touch("/nvidia0");
  const absl::Status status = Reason().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "device: auto: this machine has an NVIDIA GPU (" + folder_ +
                                  "/nvidia0), and CUDA cannot use it: no CUDA-capable device is detected. Give the "
                                  "program a GPU that works (nvidia-smi must list it in the same container), or serve "
                                  "on the CPU with --device cpu");
}

TEST_F(GpuPresenceTest, TheDriversListIsEnough) {
  Touch("/gpus/0000:3b:00.0");
  const absl::Status status = Reason().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("/gpus/0000:3b:00.0)"), std::string::npos) << status;
}

TEST_F(GpuPresenceTest, WhoeverHidesAllGpusWantsTheCpu) {
  Touch("/nvidia0");
  for (const char* const name : {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}) {
    for (const char* const value : {"", "none", "-1"}) {
      setenv(name, value, /*replace=*/1);
      const auto reason = Reason();
      ASSERT_TRUE(reason.ok()) << name << "=" << value << ": " << reason.status();
      EXPECT_EQ(*reason, std::string(name) + " is \"" + value + "\"");
    }
    unsetenv(name);
  }
}

TEST_F(GpuPresenceTest, OtherValuesHideNothing) {
  Touch("/nvidia0");
  for (const char* const value : {"0", "7", "all", "void", "GPU-8932f937"}) {
    setenv("CUDA_VISIBLE_DEVICES", value, /*replace=*/1);
    setenv("NVIDIA_VISIBLE_DEVICES", value, /*replace=*/1);
    EXPECT_FALSE(Reason().ok()) << value;
  }
}

TEST(GpuPathPatternsTest, AreTheDeviceNodesAndTheDriversList) {
  EXPECT_EQ(GpuPathPatterns(), (std::vector<std::string>{"/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*"}));
}

}  // namespace
}  // namespace spotlight::engine
