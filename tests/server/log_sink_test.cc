#include "server/log_sink.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/request_log.h"
#include "tests/testing/captured_log.h"
#include "tests/testing/fake_clock.h"

namespace spotlight::server {
namespace {

// A pipe whose reader does not read until the test does.
class FullPipe {
 public:
  FullPipe() {
    EXPECT_EQ(pipe2(ends_, O_NONBLOCK), 0);
    const std::string filler(4096, 'x');
    while (write(ends_[1], filler.data(), filler.size()) > 0) {
    }
    fcntl(ends_[1], F_SETFL, 0);
  }
  ~FullPipe() {
    close(ends_[0]);
    close(ends_[1]);
  }
  int fd() const { return ends_[1]; }
  std::string Drain() const {
    std::string text;
    char some[4096];
    for (ssize_t size; (size = read(ends_[0], some, sizeof(some))) > 0;) text.append(some, static_cast<size_t>(size));
    return text;
  }

 private:
  int ends_[2];
};

class LogSinkTest : public ::testing::Test {
 protected:
  spdlog::logger LoggerTo(int fd) {
    spdlog::logger logger("test", std::make_shared<LogSink>(fd, dropped_));
    logger.set_pattern("%v");
    return logger;
  }

  std::vector<std::string> told_;
  const std::shared_ptr<DroppedLines> dropped_ =
      std::make_shared<DroppedLines>([this](const std::string& why) { told_.push_back(why); });
};

TEST_F(LogSinkTest, LinesThatAreWrittenAreNotLost) {
  const FullPipe pipe;
  pipe.Drain();
  spdlog::logger logger = LoggerTo(pipe.fd());
  for (const char* line : {"a", "b"}) logger.info(line);
  EXPECT_EQ(pipe.Drain(), "a\nb\n");
  EXPECT_EQ(dropped_->count(), 0);
  EXPECT_TRUE(told_.empty());
}

TEST_F(LogSinkTest, AFullDiskCostsEachLineAndIsToldOnce) {
  const int full = open("/dev/full", O_WRONLY);
  spdlog::logger logger = LoggerTo(full);
  for (const char* line : {"a", "b", "c"}) logger.info(line);
  close(full);
  EXPECT_EQ(dropped_->count(), 3);
  EXPECT_EQ(told_, std::vector<std::string>{"No space left on device"});
}

TEST_F(LogSinkTest, APipeThatIsNotReadCostsLinesUntilItIs) {
  const FullPipe pipe;
  spdlog::logger logger = LoggerTo(pipe.fd());
  for (const char* line : {"a", "b"}) logger.info(line);
  EXPECT_EQ(dropped_->count(), 2);
  EXPECT_EQ(told_, std::vector<std::string>{"what it is written to takes nothing"});
  pipe.Drain();
  logger.info("c");
  EXPECT_EQ(pipe.Drain(), "c\n");
  EXPECT_EQ(dropped_->count(), 2);
}

TEST(DroppedLinesTest, LossesBeginAnewAfterAQuietMinute) {
  engine::FakeClock clock;
  int num_told = 0;
  DroppedLines dropped([&num_told](const std::string&) { ++num_told; }, &clock);
  for (int i = 0; i < 10; ++i) {
    dropped.Add(1, "full");
    clock.Advance(absl::Seconds(59));
  }
  EXPECT_EQ(num_told, 1);
  clock.Advance(absl::Seconds(1));
  dropped.Add(5, "full");
  EXPECT_EQ(num_told, 2);
  EXPECT_EQ(dropped.count(), 15);
}

// More than its buffer holds, while its writer waits for the pipe: some go from the buffer, the rest at the pipe.
TEST(RequestLogTest, EveryLineThatIsNotWrittenIsCountedOnce) {
  const spotlight::testing::CapturedLog program;
  constexpr int kNumCalls = 12000;
  const FullPipe pipe;
  RequestLog log(pipe.fd());
  CallRecord record;
  record.method = "Generate";
  for (int i = 0; i < kNumCalls; ++i) log.Write(record);
  while (log.num_dropped() < kNumCalls) usleep(10000);
  EXPECT_EQ(log.num_dropped(), kNumCalls);
  const std::string text = program.text();
  EXPECT_EQ(text.find("W the request log loses lines: "), 0u) << text;
  EXPECT_EQ(text.find('\n'), text.size() - 1) << text;
}

}  // namespace
}  // namespace spotlight::server
