#include "engine/admission/service_rates.h"

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

MeasuredStep Decode(double seconds, int32_t ended = 0, bool saturated = true) {
  return {seconds, 4, 0, ended, saturated};
}

TEST(ServiceRatesTest, AStepsTimeIsBelievedAfterAFew) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  for (int i = 0; i < 7; ++i) rates.OnStep(Decode(0.010));
  EXPECT_EQ(rates.Read().step_seconds, 0);
  rates.OnStep(Decode(0.010));
  EXPECT_NEAR(rates.Read().step_seconds, 0.010, 1e-12);
}

TEST(ServiceRatesTest, OneSlowStepHardlyCountsAndFastOnesAtOnce) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  for (int i = 0; i < 20; ++i) rates.OnStep(Decode(0.010));
  rates.OnStep(Decode(5));
  EXPECT_NEAR(rates.Read().step_seconds, 0.011, 1e-12);
  for (int i = 0; i < 10; ++i) rates.OnStep(Decode(0.002));
  EXPECT_LT(rates.Read().step_seconds, 0.0023);
  EXPECT_EQ(rates.Read().fastest_step_seconds, 0.002);
}

TEST(ServiceRatesTest, ASlowFirstStepIsForgottenSoon) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  rates.OnStep(Decode(3));
  for (int i = 0; i < 25; ++i) rates.OnStep(Decode(0.010));
  EXPECT_LT(rates.Read().step_seconds, 0.011);
}

TEST(ServiceRatesTest, OnlyStepsFullOfPromptsMeasureThem) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  for (int i = 0; i < 20; ++i) rates.OnStep({0.005, 0, 10, 0, false});
  EXPECT_EQ(rates.Read().chunk_seconds, 0);
  EXPECT_EQ(rates.Read().step_seconds, 0);
  for (int i = 0; i < 8; ++i) rates.OnStep({0.050, 4, 96, 0, false});
  EXPECT_NEAR(rates.Read().chunk_seconds, 0.050, 1e-12);
}

TEST(ServiceRatesTest, TheQueueDrainsAsRequestsEndWhileOthersWait) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  // Four end together in every tenth step of 10 ms: 40 a second.
  for (int i = 0; i < 300; ++i) rates.OnStep(Decode(0.010, i % 10 == 0 ? 4 : 0));
  EXPECT_NEAR(rates.Read().ends_per_second, 40, 4);
  // Ends with places to spare say nothing about the queue.
  const double before = rates.Read().ends_per_second;
  for (int i = 0; i < 300; ++i) rates.OnStep(Decode(0.010, 1, /*saturated=*/false));
  EXPECT_EQ(rates.Read().ends_per_second, before);
}

TEST(ServiceRatesTest, AStallOfTheQueueShows) {
  ServiceRates rates;
  rates.SetBounds(4, 100);
  for (int i = 0; i < 100; ++i) rates.OnStep(Decode(0.010, 1));
  EXPECT_NEAR(rates.Read().ends_per_second, 100, 1);
  for (int i = 0; i < 1000; ++i) rates.OnStep(Decode(0.010));
  EXPECT_LT(rates.Read().ends_per_second, 7);
}

TEST(ServiceRatesTest, AnswersCountByTheirTenthPercentile) {
  ServiceRates rates;
  for (int i = 0; i < 15; ++i) rates.OnAnswered({100, 0, 200, 400});
  EXPECT_EQ(rates.Read().answer_tokens, 0);
  for (int i = 0; i < 45; ++i) rates.OnAnswered({100, 0, 200, 400});
  for (int i = 0; i < 4; ++i) rates.OnAnswered({100, 90, 10, 400});
  EXPECT_EQ(rates.Read().answer_tokens, 200);
  EXPECT_EQ(rates.Read().answer_ratio, 0.5);
  EXPECT_EQ(rates.Read().computed_ratio, 1);
  for (int i = 0; i < 4; ++i) rates.OnAnswered({100, 90, 10, 400});
  EXPECT_EQ(rates.Read().answer_tokens, 10);
  EXPECT_EQ(rates.Read().answer_ratio, 0.025);
  EXPECT_NEAR(rates.Read().computed_ratio, 0.1, 1e-12);
}

}  // namespace
}  // namespace spotlight::engine
