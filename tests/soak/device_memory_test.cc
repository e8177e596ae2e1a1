#include "tests/soak/device_memory.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace spotlight::soak {
namespace {

TEST(DeviceMemoryTest, ReadsOneNumber) {
  const auto read = ReadMegabytes("echo 61234");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, 61234);
}

TEST(DeviceMemoryTest, AnythingElseIsAnError) {
  for (const char* command :
       {"echo '[N/A]'", "printf '1\\n2\\n'", "echo 5; exit 3", "exec no-such-program", "true", "echo -1"}) {
    const auto read = ReadMegabytes(command);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kUnavailable) << command;
    EXPECT_NE(read.status().message().find(command), absl::string_view::npos) << read.status();
  }
  EXPECT_NE(ReadMegabytes("echo lost >&2; exit 9").status().message().find("lost"), absl::string_view::npos);
}

TEST(DeviceMemoryTest, MayGrowByItsBound) {
  EXPECT_EQ(WrongInDeviceMemory(1000, 1256, 256), "");
  EXPECT_EQ(WrongInDeviceMemory(1000, 900, 256), "");
  EXPECT_EQ(WrongInDeviceMemory(1000, 1257, 256),
            "device memory grew from 1000 MB to 1257 MB between two moments without a request");
}

TEST(DeviceMemoryTest, IsNotJudgedFineUnread) {
  const absl::Status lost = absl::UnavailableError("lost");
  EXPECT_EQ(WrongInDeviceMemory(lost, 1000, 256), "lost");
  EXPECT_EQ(WrongInDeviceMemory(1000, lost, 256), "lost");
}

}  // namespace
}  // namespace spotlight::soak
