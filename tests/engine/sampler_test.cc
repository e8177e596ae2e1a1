#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "engine/philox.h"
#include "gtest/gtest.h"
#include "tests/testing/sampling.h"

namespace spotlight::engine {
namespace {

using testing::ResolvedSampling;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SampleRow Row(const SamplingParams& params, uint64_t seed = 1, int32_t output_index = 0) {
  SampleRow row;
  row.sampling = &params;
  row.seed = seed;
  row.output_index = output_index;
  return row;
}

std::vector<float> RandomLogits(int32_t vocab_size, float spread, std::mt19937* rng) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) logit = normal(*rng);
  return logits;
}

// The header's words, in doubles and with a full sort.
int32_t BruteForceSample(std::vector<double> logits, const SampleRow& row) {
  const SamplingParams& params = *row.sampling;
  if (row.output_token_ids != nullptr) {
    std::map<int32_t, int> counts;
    for (int32_t id : *row.output_token_ids) ++counts[id];
    std::set<int32_t> seen(row.prompt_token_ids->begin(), row.prompt_token_ids->end());
    for (const auto& [id, count] : counts) seen.insert(id);
    for (int32_t id : seen) {
      logits[id] = logits[id] > 0 ? logits[id] / *params.repetition_penalty : logits[id] * *params.repetition_penalty;
    }
    for (const auto& [id, count] : counts) logits[id] -= params.presence_penalty + params.frequency_penalty * count;
  }
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  if (row.banned_token_ids != nullptr) {
    for (int32_t id : *row.banned_token_ids) logits[id] = -std::numeric_limits<double>::infinity();
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  if (*params.temperature == 0) return order[0];
  const double best = logits[order[0]];
  const auto weight = [&](int32_t id) { return std::exp((logits[id] - best) / *params.temperature); };
  if (params.min_p > 0) {
    while (weight(order.back()) < params.min_p) order.pop_back();
  }
  if (*params.top_k > 0 && order.size() > static_cast<size_t>(*params.top_k)) order.resize(*params.top_k);
  if (*params.top_p < 1) {
    double total = 0;
    for (int32_t id : order) total += weight(id);
    double sum = 0;
    size_t kept = 0;
    while (kept < order.size() && sum < *params.top_p * total) sum += weight(order[kept++]);
    order.resize(kept);
  }
  std::sort(order.begin(), order.end());
  double total = 0;
  for (int32_t id : order) total += weight(id);
  double left = UniformDraw(row.seed, row.output_index) * total;
  for (int32_t id : order) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return order.back();
}

TEST(PhiloxTest, GivesTheKnownAnswersOfRandom123) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(ExpNonPositiveTest, IsWithinTwoTenMillionthsOfExp) {
  for (double x = 0; x > -87; x -= 0.00137) {
    const auto argument = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(argument));
    ASSERT_NEAR(ExpNonPositive(argument) / exact, 1.0, 2e-7) << x;
  }
  EXPECT_EQ(ExpNonPositive(0), 1.0f);
  EXPECT_EQ(ExpNonPositive(-100), 0.0f);
  EXPECT_EQ(ExpNonPositive(-kInf), 0.0f);
}

TEST(SamplerTest, GreedyTakesTheLowestIdOfEqualMaxima) {
  const SamplingParams params = ResolvedSampling(0);
  std::vector<float> logits(1000, -1.0f);
  logits[900] = logits[317] = logits[318] = 2.5f;
  EXPECT_EQ(Sampler().Sample(logits.data(), 1000, Row(params)).token_id, 317);
}

TEST(SamplerTest, AgreesWithABruteForceSamplerInDoubles) {
  std::mt19937 rng(7);
  Sampler sampler;
  for (int trial = 0; trial < 3000; ++trial) {
    const int32_t vocab_size = 2 + static_cast<int32_t>(rng() % 700);
    std::vector<float> logits = RandomLogits(vocab_size, trial % 3 == 0 ? 0.3f : 4.0f, &rng);
    if (trial % 5 == 0) {
      for (float& logit : logits) logit = std::round(logit);  // many ties
    }
    const float temperatures[] = {0, 0.2f, 0.7f, 1, 1.9f};
    const float top_ps[] = {1, 0.05f, 0.5f, 0.9f, 0.999f};
    const int32_t top_ks[] = {0, 1, 3, 40, 5000};
    const float min_ps[] = {0, 0, 0.02f, 0.5f, 1};
    SamplingParams params =
        ResolvedSampling(temperatures[rng() % 5], top_ps[rng() % 5], top_ks[rng() % 5], min_ps[rng() % 5]);
    SampleRow row = Row(params, rng(), static_cast<int32_t>(rng() % 100));
    std::vector<int32_t> prompt, output, banned;
    if (trial % 2 == 0) {
      for (int i = 0; i < 20; ++i) prompt.push_back(static_cast<int32_t>(rng() % vocab_size));
      for (int i = 0; i < 20; ++i) output.push_back(static_cast<int32_t>(rng() % vocab_size));
      params.repetition_penalty = trial % 4 == 0 ? 1.3f : 1.0f;
      params.presence_penalty = 0.5f;
      params.frequency_penalty = -0.25f;
      params.logit_bias = {{static_cast<int32_t>(rng() % vocab_size), 1.5f}};
      row.prompt_token_ids = &prompt;
      row.output_token_ids = &output;
    }
    if (trial % 7 == 0) {
      banned.push_back(static_cast<int32_t>(rng() % vocab_size));
      row.banned_token_ids = &banned;
    }
    const std::vector<double> exact(logits.begin(), logits.end());
    ASSERT_EQ(sampler.Sample(logits.data(), vocab_size, row).token_id, BruteForceSample(exact, row))
        << "trial " << trial << " vocab " << vocab_size << " T " << *params.temperature << " top_p " << *params.top_p
        << " top_k " << *params.top_k << " min_p " << *params.min_p;
  }
}

TEST(SamplerTest, DrawsInProportionToTheProbabilities) {
  const std::vector<double> probabilities = {0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01};
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3);
  const SamplingParams params = ResolvedSampling(1);
  Sampler sampler;
  constexpr int kDraws = 40000;
  std::vector<int> counts(probabilities.size(), 0);
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Sample(logits.data(), 7, Row(params, 99, i)).token_id];
  double chi_square = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 22.5);  // 6 degrees of freedom, p = 0.001
}

TEST(SamplerTest, DrawsOfDifferentSeedsAreUnrelated) {
  const std::vector<float> logits(16, 0.0f);
  const SamplingParams params = ResolvedSampling(1);
  Sampler sampler;
  int equal = 0;
  for (int i = 0; i < 4000; ++i) {
    equal += sampler.Sample(logits.data(), 16, Row(params, 5, i)).token_id ==
             sampler.Sample(logits.data(), 16, Row(params, 6, i)).token_id;
  }
  EXPECT_NEAR(equal, 250, 60);
}

TEST(SamplerTest, RowsDoNotDependOnWhatWasSampledBefore) {
  std::mt19937 rng(3);
  const std::vector<float> logits = RandomLogits(300, 2, &rng), other = RandomLogits(300, 2, &rng);
  SamplingParams params = ResolvedSampling(0.9f, 0.95f);
  params.repetition_penalty = 1.2f;
  const std::vector<int32_t> prompt = {1, 2, 3, 3}, output = {3, 4, 4};
  SampleRow row = Row(params, 42, 7);
  row.prompt_token_ids = &prompt;
  row.output_token_ids = &output;
  const int32_t alone = Sampler().Sample(logits.data(), 300, row).token_id;
  Sampler used;
  for (int i = 0; i < 5; ++i) used.Sample(other.data(), 300, row);
  EXPECT_EQ(used.Sample(logits.data(), 300, row).token_id, alone);
}

TEST(SamplerTest, RepetitionPenaltyCountsAnIdOnceHoweverOftenItOccurs) {
  SamplingParams params = ResolvedSampling(0);
  params.repetition_penalty = 2.0f;
  const std::vector<int32_t> prompt = {1, 1, 1}, output = {1, 2};
  SampleRow row = Row(params);
  row.prompt_token_ids = &prompt;
  row.output_token_ids = &output;
  // 8 / 2 stays above 3.9; divided twice it would not.
  EXPECT_EQ(Sampler().Sample(std::vector<float>{3.9f, 8, -1, 0}.data(), 4, row).token_id, 1);
  // A negative logit is multiplied: -1 * 2 falls below -1.5.
  EXPECT_EQ(Sampler().Sample(std::vector<float>{-1.5f, -1, -1, -9}.data(), 4, row).token_id, 0);
}

TEST(SamplerTest, FrequencyPenaltyGrowsWithTheCount) {
  SamplingParams params = ResolvedSampling(0);
  params.frequency_penalty = 1.0f;
  const std::vector<int32_t> prompt, output = {1, 1, 1, 2};
  SampleRow row = Row(params);
  row.prompt_token_ids = &prompt;
  row.output_token_ids = &output;
  EXPECT_EQ(Sampler().Sample(std::vector<float>{0, 4, 3}.data(), 3, row).token_id, 2);
}

TEST(SamplerTest, BannedTokensAreNeverTaken) {
  const SamplingParams greedy = ResolvedSampling(0), warm = ResolvedSampling(1);
  const std::vector<int32_t> banned = {0, 2};
  Sampler sampler;
  for (const SamplingParams* params : {&greedy, &warm}) {
    for (int i = 0; i < 200; ++i) {
      SampleRow row = Row(*params, 3, i);
      row.banned_token_ids = &banned;
      EXPECT_EQ(sampler.Sample(std::vector<float>{9, 1, 8}.data(), 3, row).token_id, 1);
    }
  }
}

TEST(SamplerTest, LogprobsAreTheRawModelsWhateverTheParameters) {
  SamplingParams params = ResolvedSampling(0.3f, 0.9f, 2);
  params.logit_bias = {{3, 100.0f}};
  SampleRow row = Row(params);
  row.num_logprobs = 3;
  const std::vector<float> logits = {1, 3, 2, -4, 2};
  const SampledToken token = Sampler().Sample(logits.data(), 5, row);
  EXPECT_EQ(token.token_id, 3);
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit);
  EXPECT_EQ(token.logprob.token_id, 3);
  EXPECT_NEAR(token.logprob.logprob, -4 - std::log(sum), 1e-6);
  ASSERT_EQ(token.logprob.top.size(), 3u);
  EXPECT_EQ(token.logprob.top[0].first, 1);
  EXPECT_EQ(token.logprob.top[1].first, 2);
  EXPECT_EQ(token.logprob.top[2].first, 4);
  EXPECT_NEAR(token.logprob.top[1].second, 2 - std::log(sum), 1e-6);
}

TEST(SamplerTest, UnusableLogitsGiveNoToken) {
  const SamplingParams greedy = ResolvedSampling(0), warm = ResolvedSampling(1, 0.9f, 5);
  for (const SamplingParams* params : {&greedy, &warm}) {
    for (int32_t place : {0, 5, 63, 64, 99}) {
      for (float bad : {kNan, -kNan, kInf}) {
        std::vector<float> logits(100, 1.0f);
        logits[place] = bad;
        EXPECT_EQ(Sampler().Sample(logits.data(), 100, Row(*params)).token_id, kNoToken);
      }
    }
    EXPECT_EQ(Sampler().Sample(std::vector<float>(100, -kInf).data(), 100, Row(*params)).token_id, kNoToken);
  }
}

TEST(SamplerTest, MaskedTokensOfTheModelAreNeverDrawn) {
  std::vector<float> logits(130, -kInf);
  logits[129] = -3;
  logits[2] = -3;
  Sampler sampler;
  std::set<int32_t> seen;
  for (const SamplingParams& params :
       {ResolvedSampling(1), ResolvedSampling(1, 0.99f), ResolvedSampling(1, 1, 50), ResolvedSampling(5, 1, 0, 0.1f)}) {
    for (int i = 0; i < 50; ++i) seen.insert(sampler.Sample(logits.data(), 130, Row(params, 1, i)).token_id);
  }
  EXPECT_EQ(seen, (std::set<int32_t>{2, 129}));
}

}  // namespace
}  // namespace spotlight::engine
