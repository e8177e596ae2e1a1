#include "engine/step_time_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "engine/short_chunk.h"

namespace spotlight::engine {
namespace {

StepWork Work(int32_t rows, int32_t begin, int32_t tokens) {
  StepWork work;
  work.num_decode_rows = rows;
  if (tokens > 0) work.AddChunk(begin, tokens);
  return work;
}

// A GPU: steps that only decode are graphs; beside them small chunks run at half the speed of large ones.
double Seconds(const StepWork& work) {
  if (work.num_prefill_tokens == 0) return 4e-3 + 1e-4 * work.num_decode_rows;
  const double efficiency = work.num_prefill_tokens < 1024 ? 0.5 : 1;
  return 6e-3 + 1e-4 * work.num_decode_rows + (2.2e-5 * work.num_prefill_tokens + 7e-10 * work.attended) / efficiency;
}

TEST(StepTimeModelTest, CountsThePairsOfAChunk) {
  StepWork work = Work(3, 10, 4);  // 11 + 12 + 13 + 14
  EXPECT_EQ(work.attended, 50);
  work.AddChunk(0, 1);
  EXPECT_EQ(work.attended, 51);
  EXPECT_EQ(work.past, 10);
  EXPECT_EQ(work.num_prefill_tokens, 5);
}

TEST(StepTimeModelTest, BeginsWithASmallChunk) {
  const StepTimeModel model;
  EXPECT_EQ(model.MaxChunkTokens(Work(1, 0, 0), 0, 10), StepTimeModel::kFirstChunkTokens);
  EXPECT_EQ(model.MaxChunkTokens(Work(1, 0, 200), 0, 10), StepTimeModel::kFirstChunkTokens - 200);
  EXPECT_EQ(model.DecodeSeconds(8), 0);
}

TEST(StepTimeModelTest, GrowsNoFasterThanItHasSeen) {
  StepTimeModel model;
  model.Add(Work(1, 0, 300), 1e-6);
  EXPECT_EQ(model.MaxChunkTokens(Work(1, 0, 0), 0, 10), 600);
}

TEST(StepTimeModelTest, AStepOfNoTimeTeachesNothing) {
  StepTimeModel model;
  model.Add(Work(4, 0, 0), 0);
  model.Add(Work(4, 0, 100), 0);
  EXPECT_EQ(model.DecodeSeconds(4), 0);
  EXPECT_EQ(model.MaxChunkTokens(Work(1, 0, 0), 0, 10), StepTimeModel::kFirstChunkTokens);
}

TEST(StepTimeModelTest, LearnsWhatDecodingTakes) {
  StepTimeModel model;
  for (int32_t rows = 1; rows <= 32; ++rows) model.Add(Work(rows, 0, 0), Seconds(Work(rows, 0, 0)));
  EXPECT_NEAR(model.DecodeSeconds(16), 5.6e-3, 2e-4);
  EXPECT_NEAR(model.DecodeSeconds(64), 1.04e-2, 5e-4);
}

TEST(StepTimeModelTest, SlowStepsOfOtherSizesDoNotCountAgainstManyOfThisOne) {
  StepTimeModel model;
  for (const int32_t rows : {1, 2, 4}) model.Add(Work(rows, 0, 0), 0.03);  // seen once, while kernels were loaded
  for (int i = 0; i < 40; ++i) model.Add(Work(8, 0, 0), 5e-3);
  EXPECT_NEAR(model.DecodeSeconds(8), 5e-3, 1e-4);
}

// A prompt of 128K beside 8 streams, after a shorter one that came alone: steps keep to the bound all the way, where
// reading the past costs nothing by itself and where it does.
TEST(StepTimeModelTest, ChunksOfALongPromptKeepToTheBound) {
  for (const double past_seconds : {0.0, 2.5e-8}) {
    StepTimeModel model;
    std::mt19937 random(3);
    std::uniform_real_distribution<double> noise(0.97, 1.03);
    const auto run = [&](const StepWork& work) {
      const double seconds = (Seconds(work) + past_seconds * work.past) * noise(random);
      model.Add(work, seconds);
      return seconds;
    };
    for (int32_t begin = 0; begin < 16384; begin += 8192) run(Work(0, begin, 8192));
    for (int i = 0; i < 20; ++i) run(Work(8, 0, 0));
    const double bound = 3 * model.DecodeSeconds(8);
    int steps = 0, late = 0;
    double total = 0;
    for (int32_t begin = 0; begin < 131072; ++steps) {
      const int32_t tokens = std::max(16, model.MaxChunkTokens(Work(8, 0, 0), begin, 0.85 * bound));
      const double seconds = run(Work(8, begin, tokens));
      late += seconds > bound ? 1 : 0;
      total += seconds;
      begin += tokens;
    }
    EXPECT_LE(late, std::max(4, steps / 200)) << past_seconds;
    EXPECT_GT(total / steps, 0.7 * bound) << past_seconds;  // and use what it allows
  }
}

// Short chunks are graphs, and cost far less than the longer ones' times say: once seen, they are taken for what they
// are, and chunks become long again where those fit.
TEST(StepTimeModelTest, ShortChunksAreJudgedByStepsLikeThem) {
  StepTimeModel model;
  const auto seconds = [](const StepWork& work) {
    if (work.num_prefill_tokens == 0) return 5.3e-3;
    const double host_bound = work.num_prefill_tokens <= kMaxShortChunk ? 6e-3 : 1.1e-2;
    return host_bound + 1e-5 * work.num_prefill_tokens + 1.2e-9 * work.attended;
  };
  const auto run = [&](const StepWork& work) {
    model.Add(work, seconds(work));
    return seconds(work);
  };
  for (int32_t begin = 0; begin < 65536; begin += 8192) run(Work(0, begin, 8192));
  for (int i = 0; i < 20; ++i) run(Work(8, 0, 0));
  const double bound = 3 * model.DecodeSeconds(8);
  int steps = 0, late = 0;
  for (int32_t begin = 0; begin < 131072; ++steps) {
    const int32_t most = model.MaxChunkTokens(Work(8, 0, 0), begin, 0.85 * bound);
    const int32_t tokens = most < 160 ? ShortChunkWithin(most, {16, 32, 48, 64, 96, 128}) : most / 32 * 32;
    late += run(Work(8, begin, tokens)) > bound ? 1 : 0;
    begin += tokens;
  }
  EXPECT_LE(late, steps / 200);
  EXPECT_LT(steps, 2400) << "chunks of 55 tokens would do";
  EXPECT_GT(model.MaxChunkTokens(Work(8, 0, 0), 0, 4 * bound), 1024);
}

// What was learned of long chunks says that 150 tokens fit, which are cut to 128: those steps say that they do not.
TEST(StepTimeModelTest, AShortChunkCutFromALongOneIsJudgedAsAShortOne) {
  StepTimeModel model;
  for (int i = 0; i < 20; ++i) model.Add(Work(8, 0, 0), 5e-3);
  for (int i = 0; i < 20; ++i) {
    for (int32_t tokens = 256; tokens <= 2048; tokens *= 2) model.Add(Work(8, 0, tokens), 6e-3 + 3e-5 * tokens);
  }
  constexpr double kBound = 6e-3 + 3e-5 * 150;
  const int32_t before = model.MaxChunkTokens(Work(8, 0, 0), 0, kBound);
  EXPECT_GT(before, 128);
  EXPECT_LT(before, 160);
  for (int i = 0; i < 10; ++i) model.Add(Work(8, 0, 128), 1.5 * kBound);
  EXPECT_LT(model.MaxChunkTokens(Work(8, 0, 0), 0, kBound), 128);
}

TEST(StepTimeModelTest, OneSlowStepIsForgotten) {
  StepTimeModel model;
  for (int32_t tokens = 64; tokens <= 512; tokens *= 2) model.Add(Work(4, 0, tokens), Seconds(Work(4, 0, tokens)));
  const int32_t before = model.MaxChunkTokens(Work(4, 0, 0), 0, 1e-2);
  model.Add(Work(4, 0, 128), 0.4);  // a kernel was compiled
  for (int i = 0; i < 40; ++i) model.Add(Work(4, 0, 128), Seconds(Work(4, 0, 128)));
  EXPECT_NEAR(model.MaxChunkTokens(Work(4, 0, 0), 0, 1e-2), before, 0.1 * before);
}

TEST(StepTimeModelTest, EqualStepsMakeEqualModels) {
  StepTimeModel a, b;
  for (StepTimeModel* const model : {&a, &b}) {
    for (int32_t i = 1; i < 200; ++i)
      model->Add(Work(i % 7, i * 64, i % 3 * 100), Seconds(Work(i % 7, i * 64, i % 3 * 100)));
  }
  for (double bound = 1e-3; bound < 1; bound *= 2) {
    EXPECT_EQ(a.MaxChunkTokens(Work(2, 0, 0), 1000, bound), b.MaxChunkTokens(Work(2, 0, 0), 1000, bound));
  }
}

}  // namespace
}  // namespace spotlight::engine
