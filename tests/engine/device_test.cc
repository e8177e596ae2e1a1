// Which device a name means. CUDA sees no GPU in this process, whatever the machine has.
#include "engine/device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/match.h"

namespace spotlight::engine {
namespace {

class DeviceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("CUDA_VISIBLE_DEVICES", "99", /*replace=*/1);  // hides all, and is nobody's way to ask for the CPU
    unsetenv("NVIDIA_VISIBLE_DEVICES");
  }
};

TEST_F(DeviceTest, AutoIsTheCpuWhereNoGpuIs) {
  std::string why_cpu;
  const auto device = ResolveDevice("auto", &why_cpu, {::testing::TempDir() + "/no_nvidia[0-9]*"});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(device->is_cpu());
  EXPECT_EQ(why_cpu, "no NVIDIA GPU is there");
}

TEST_F(DeviceTest, AutoRefusesWhereAGpuIsThatCudaCannotUse) {
  const std::string node = ::testing::TempDir() + "/nvidia0";
  ASSERT_TRUE(std::ofstream(node));
  std::string why_cpu;
  const absl::Status status = ResolveDevice("auto", &why_cpu, {::testing::TempDir() + "/nvidia[0-9]*"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(status.message(), node)) << status;
  // CUDA's: without a driver, and with one.
  EXPECT_TRUE(absl::StrContains(status.message(),
                                "CUDA driver version is insufficient for CUDA runtime version "
                                "(the driver's libcuda.so.1 is not found)") ||
              absl::StrContains(status.message(), "no CUDA-capable device is detected"))
      << status;
  EXPECT_EQ(why_cpu, "");
}

TEST_F(DeviceTest, TheCpuByNameNeedsNoReason) {
  std::string why_cpu;
  const auto device = ResolveDevice("cpu", &why_cpu, {"/dev/null"});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(device->is_cpu());
  EXPECT_EQ(why_cpu, "");
}

TEST_F(DeviceTest, AGpuByNameIsRefusedWithCudasReason) {
  const absl::Status status = ResolveDevice("cuda:0").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(
      absl::StartsWith(status.message(), "device: cuda:0 is not there; this machine has 0 usable CUDA devices: "))
      << status;
  EXPECT_EQ(ResolveDevice("gpu").status().message(), "device: must be auto, cpu or cuda:N, got \"gpu\"");
}

}  // namespace
}  // namespace spotlight::engine
