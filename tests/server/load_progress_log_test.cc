#include "server/load_progress_log.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/testing/fake_clock.h"

namespace spotlight::server {
namespace {

constexpr int64_t kTotal = 16'000'000'000;

// The lines of a load at an even pace, told of a thousand times, and when each came.
struct Lines {
  std::vector<std::string> texts;
  std::vector<absl::Duration> times;
};

Lines LinesOf(absl::Duration load_time) {
  engine::FakeClock clock;
  const absl::Duration start = clock.Now();
  LoadProgressLog log(&clock);
  Lines lines;
  for (int i = 1; i <= 1000; ++i) {
    clock.Advance(load_time / 1000);
    const auto line = log.Line(kTotal / 1000 * i, kTotal);
    if (!line.has_value()) continue;
    lines.texts.push_back(*line);
    lines.times.push_back(clock.Now() - start);
  }
  return lines;
}

TEST(LoadProgressLogTest, AShortLoadHasNoLine) {
  EXPECT_TRUE(LinesOf(absl::Seconds(1.9)).texts.empty());
}

TEST(LoadProgressLogTest, LinesAreTwoSecondsApartAtLeast) {
  const Lines lines = LinesOf(absl::Seconds(7));
  EXPECT_EQ(lines.times, (std::vector<absl::Duration>{absl::Milliseconds(2002), absl::Milliseconds(4004),
                                                      absl::Milliseconds(6006)}));
}

TEST(LoadProgressLogTest, ALongLoadHasALineForEachTenth) {
  const Lines lines = LinesOf(absl::Seconds(100));
  ASSERT_EQ(lines.texts.size(), 9u);  // the end is the ready line's
  EXPECT_EQ(lines.texts[0], "loading: 1.6 of 16.0 GB (10%), 0.16 GB/s, 90 s left");
  EXPECT_EQ(lines.texts[8], "loading: 14.4 of 16.0 GB (90%), 0.16 GB/s, 10 s left");
}

TEST(LoadProgressLogTest, ASlowLoadShowsThatItGoesOn) {
  const Lines lines = LinesOf(absl::Hours(1));
  EXPECT_EQ(lines.texts.size(), 111u);  // told every 3.6 s: 9 times that is the first beyond 30
  EXPECT_EQ(lines.times[0], absl::Seconds(32.4));
}

TEST(LoadProgressLogTest, NoProgressNoLine) {
  engine::FakeClock clock;
  LoadProgressLog log(&clock);
  clock.Advance(absl::Seconds(5));
  EXPECT_FALSE(log.Line(kTotal / 10 - 1, kTotal).has_value());
  EXPECT_TRUE(log.Line(kTotal / 10, kTotal).has_value());
  EXPECT_FALSE(log.Line(kTotal / 2, kTotal).has_value()) << "at the same time";
  clock.Advance(absl::Hours(1));
  EXPECT_FALSE(log.Line(kTotal, kTotal).has_value()) << "all is there";
}

}  // namespace
}  // namespace spotlight::server
