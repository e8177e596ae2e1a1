#include "server/security/file_watch.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "gtest/gtest.h"
#include "tests/testing/captured_log.h"
#include "tests/testing/temporary_folder.h"

namespace spotlight::server {
namespace {

class FileWatchTest : public ::testing::Test {
 protected:
  // Takes what does not begin with "bad".
  WatchedFiles Watched(std::vector<std::string> paths) {
    return {"letters", std::move(paths), [this](const std::vector<std::string>& contents) {
              if (absl::StartsWith(contents[0], "bad")) return absl::InvalidArgumentError("FILE: is bad");
              MutexLock lock(&mutex_);
              taken_ = contents;
              return absl::OkStatus();
            }};
  }
  absl::StatusOr<std::unique_ptr<FileWatch>> Start(std::vector<std::string> paths) {
    return FileWatch::Start({Watched(std::move(paths))}, absl::Milliseconds(5),
                            [this](const WatchedFiles&, bool taken) {
                              MutexLock lock(&mutex_);
                              ++num_attempts_;
                              last_taken_ = taken;
                              changed_.NotifyAll();
                            });
  }
  // The outcome of the attempt of this number, the first being 1; waits for it.
  bool Attempt(int number) {
    MutexLock lock(&mutex_);
    while (num_attempts_ < number) changed_.Wait(&mutex_);
    EXPECT_EQ(num_attempts_, number);
    return last_taken_;
  }
  std::vector<std::string> taken() {
    MutexLock lock(&mutex_);
    return taken_;
  }

  spotlight::testing::TemporaryFolder folder_;
  spotlight::testing::CapturedLog log_;

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> taken_ ABSL_GUARDED_BY(mutex_);
  int num_attempts_ ABSL_GUARDED_BY(mutex_) = 0;
  bool last_taken_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_F(FileWatchTest, TheFirstReadingMustSucceed) {
  EXPECT_EQ(Start({folder_.Path("none")}).status().message(),
            absl::StrCat(folder_.Path("none"), ": No such file or directory"));
  EXPECT_EQ(Start({folder_.Write("a", "bad")}).status().message(), "FILE: is bad");
  EXPECT_EQ(Start({folder_.Path(".")}).status().message(), absl::StrCat(folder_.Path("."), ": is not a regular file"));
  EXPECT_EQ(Start({folder_.Write("a", std::string((1 << 20) + 1, 'x'))}).status().message(),
            absl::StrCat(folder_.Path("a"), ": is larger than 1048576 bytes"));
}

TEST_F(FileWatchTest, AChangeOfAnyFileTakesThemAll) {
  const auto watch = Start({folder_.Write("a", "1"), folder_.Write("b", "2")});
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_EQ(taken(), (std::vector<std::string>{"1", "2"})) << "at once, before Start returns";
  folder_.Write("b", "3");
  EXPECT_TRUE(Attempt(1));
  EXPECT_EQ(taken(), (std::vector<std::string>{"1", "3"}));
}

TEST_F(FileWatchTest, WhatFailsLeavesTheLastGoodOneAndIsToldOnce) {
  {
    const auto watch = Start({folder_.Write("a", "good")});
    ASSERT_TRUE(watch.ok()) << watch.status();
    folder_.Write("a", "bad one");
    EXPECT_FALSE(Attempt(1));
    folder_.Remove("a");
    EXPECT_FALSE(Attempt(2));
    absl::SleepFor(absl::Milliseconds(50));  // ten more looks at a file that is not there
    EXPECT_FALSE(Attempt(2));
    EXPECT_EQ(taken(), std::vector<std::string>{"good"});
    folder_.Write("a", "better");
    EXPECT_TRUE(Attempt(3));
    EXPECT_EQ(taken(), std::vector<std::string>{"better"});
  }
  EXPECT_EQ(log_.text(), absl::StrCat("W letters: not reloaded, what was loaded before goes on: FILE: is bad\n"
                                      "W letters: not reloaded, what was loaded before goes on: ",
                                      folder_.Path("a"), ": No such file or directory\nI letters: reloaded\n"));
}

TEST_F(FileWatchTest, AFileThatComesBackUnchangedIsTaken) {
  const auto watch = Start({folder_.Write("a", "good")});
  ASSERT_TRUE(watch.ok()) << watch.status();
  folder_.Remove("a");
  EXPECT_FALSE(Attempt(1));
  folder_.Write("a", "good");
  EXPECT_TRUE(Attempt(2));
}

}  // namespace
}  // namespace spotlight::server
