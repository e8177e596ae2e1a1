// Whose state the device's slots hold, without a device.
#include "engine/sample_slots.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "engine/philox.h"
#include "engine/sampler.h"
#include "tests/testing/sampling.h"

namespace spotlight::engine {
namespace {

using testing::ResolvedSampling;

class SampleSlotsTest : public ::testing::Test {
 protected:
  SampleSlotsTest() {
    penalised_.presence_penalty = 1;
    biased_.logit_bias = {{9, 2.0f}, {4, -1.0f}};
  }
  SampleRow Row(uint64_t sequence, int32_t output_index, const SamplingParams& sampling) {
    SampleRow row;
    row.sampling = &sampling;
    row.sequence_id = sequence;
    row.output_index = output_index;
    row.output_token_ids = &output_;
    return row;
  }
  void Assign(std::vector<SampleRow> samples) {
    batch_.samples = std::move(samples);
    const absl::Status status = slots_.Assign(batch_, &rows_, &fresh_);
    ASSERT_TRUE(status.ok()) << status;
  }

  const std::vector<int32_t> output_ = {1, 2};
  SamplingParams plain_ = ResolvedSampling(1), penalised_ = ResolvedSampling(1), biased_ = ResolvedSampling(1);
  SampleSlots slots_{3};
  Batch batch_;
  std::vector<kernels::SampleRowParams> rows_;
  std::vector<SampleSlots::Fresh> fresh_;
};

TEST_F(SampleSlotsTest, RowsSayWhatTheHostSamplerIsTold) {
  SamplingParams sampling = ResolvedSampling(0.5f, 0.9f, 40, 0.1f);
  sampling.repetition_penalty = 1.3f;
  SampleRow row = Row(0, 7, sampling);
  row.seed = 99;
  row.num_logprobs = 5;
  const SamplingParams greedy = ResolvedSampling(0);
  batch_.scored = {{0, 321, 2}};
  Assign({row, Row(1, 0, greedy)});
  ASSERT_EQ(rows_.size(), 3u);
  EXPECT_EQ(rows_[0].draw, UniformDraw(99, 7));
  EXPECT_EQ(rows_[0].scale, 2.0f);
  EXPECT_EQ(rows_[0].top_p, 0.9f);
  EXPECT_EQ(rows_[0].top_k, 40);
  EXPECT_EQ(rows_[0].min_p_distance, std::log(0.1f) / 2.0f);
  EXPECT_EQ(rows_[0].repetition, 1.3f);
  EXPECT_EQ(rows_[0].has_penalty, 1);
  EXPECT_EQ(rows_[0].num_top, 5);
  EXPECT_EQ(rows_[1].scale, 0.0f);
  EXPECT_EQ(rows_[1].slot, -1);
  EXPECT_EQ(rows_[2].scored_token, 321);
  EXPECT_EQ(rows_[2].num_top, 2);
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(rows_[i].out, i);
}

TEST_F(SampleSlotsTest, ASequenceKeepsItsSlotFromStepToStep) {
  Assign({Row(0, 0, penalised_), Row(1, 0, plain_), Row(2, 0, biased_)});
  ASSERT_EQ(fresh_.size(), 2u);
  const int32_t first = rows_[0].slot, third = rows_[2].slot;
  EXPECT_NE(first, third);
  EXPECT_EQ(rows_[2].num_biases, 2);
  SampleRow fed = Row(0, 1, penalised_);
  fed.fed_sample = 0;
  Assign({Row(2, 1, biased_), fed});
  EXPECT_TRUE(fresh_.empty());
  EXPECT_EQ(rows_[0].slot, third);
  EXPECT_EQ(rows_[0].num_biases, 2);
  EXPECT_EQ(rows_[1].slot, first);
}

TEST_F(SampleSlotsTest, TheLeastRecentlySampledGoesAndComesBackAnew) {
  Assign({Row(0, 0, penalised_), Row(1, 0, penalised_), Row(2, 0, penalised_)});
  Assign({Row(0, 1, penalised_), Row(2, 1, penalised_)});
  Assign({Row(0, 2, penalised_), Row(3, 0, penalised_)});
  ASSERT_EQ(fresh_.size(), 1u);
  EXPECT_EQ(fresh_[0].row->sequence_id, 3u);
  Assign({Row(2, 2, penalised_)});
  EXPECT_TRUE(fresh_.empty());
  Assign({Row(1, 1, penalised_)});
  ASSERT_EQ(fresh_.size(), 1u);
  EXPECT_EQ(fresh_[0].row->sequence_id, 1u);
}

TEST_F(SampleSlotsTest, AStateThatMissesTokensIsWrittenAnew) {
  Assign({Row(0, 0, penalised_)});
  Assign({Row(0, 2, penalised_)});
  EXPECT_EQ(fresh_.size(), 1u);
  SampleRow fed = Row(0, 4, penalised_);
  fed.fed_sample = 0;
  batch_.samples = {fed};
  EXPECT_EQ(slots_.Assign(batch_, &rows_, &fresh_).code(), absl::StatusCode::kInternal);
}

TEST_F(SampleSlotsTest, BansEndWhileTheSlotStays) {
  const std::vector<int32_t> banned = {5, 6, 7};
  SampleRow row = Row(0, 0, biased_);
  row.banned_token_ids = &banned;
  Assign({row});
  EXPECT_EQ(rows_[0].num_bans, 3);
  const std::vector<kernels::SampleEntry> entries = SampleEntriesOf(row);
  ASSERT_EQ(entries.size(), 5u);
  EXPECT_EQ(entries[0].token_id, 4);
  EXPECT_EQ(entries[1].bias, 2.0f);
  EXPECT_EQ(entries[2].token_id, 5);
  Assign({Row(0, 1, biased_)});
  EXPECT_TRUE(fresh_.empty());
  EXPECT_EQ(rows_[0].num_bans, 0);
  EXPECT_EQ(rows_[0].num_biases, 2);
}

TEST_F(SampleSlotsTest, MoreEntriesThanASlotHasAreAnError) {
  const std::vector<int32_t> banned(kernels::kMaxSampleEntries + 1, 5);
  SampleRow row = Row(0, 0, plain_);
  row.banned_token_ids = &banned;
  batch_.samples = {row};
  EXPECT_EQ(slots_.Assign(batch_, &rows_, &fresh_).code(), absl::StatusCode::kInternal);
}

// What the device would hold is what each sequence generated, whoever comes and goes.
TEST_F(SampleSlotsTest, RandomSequencesFindTheirOwnTokensCounted) {
  std::mt19937 random(4);
  std::map<int32_t, std::pair<uint64_t, int32_t>> device;  // slot: sequence, tokens counted
  std::map<uint64_t, int32_t> generated;
  for (int step = 0; step < 2000; ++step) {
    std::vector<SampleRow> samples;
    for (uint64_t sequence = 0; sequence < 8 && samples.size() < 3; ++sequence) {
      if (random() % 3 == 0) samples.push_back(Row(sequence, generated[sequence]++, penalised_));
    }
    Assign(samples);
    for (const SampleSlots::Fresh& fresh : fresh_) {
      device[fresh.slot] = {fresh.row->sequence_id, fresh.row->output_index};
    }
    for (size_t i = 0; i < samples.size(); ++i) {
      auto& [sequence, counted] = device[rows_[i].slot];
      ASSERT_EQ(sequence, samples[i].sequence_id);
      ASSERT_EQ(counted++, samples[i].output_index);
    }
  }
}

}  // namespace
}  // namespace spotlight::engine
