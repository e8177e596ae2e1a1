// kernels/sample.h beside the host's sampler, which is its specification: the same logits, the same tokens.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "engine/philox.h"
#include "engine/sampler.h"
#include "kernels/numeric.h"
#include "kernels/sample.h"
#include "tests/testing/managed_array.h"
#include "tests/testing/sampling.h"

namespace spotlight::engine {
namespace {

using kernels::SampleEntry;
using kernels::SampleOutput;
using kernels::SampleRowParams;
using testing::ManagedArray;
using testing::ResolvedSampling;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
  SamplingParams sampling;
  uint64_t seed = 0;
  int32_t output_index = 0;
  int32_t num_logprobs = -1;
  std::vector<int32_t> prompt, output, banned;

  SampleRow row() const {
    SampleRow row;
    row.sampling = &sampling;
    row.seed = seed;
    row.output_index = output_index;
    row.num_logprobs = num_logprobs;
    row.prompt_token_ids = &prompt;
    row.output_token_ids = &output;
    if (!banned.empty()) row.banned_token_ids = &banned;
    return row;
  }
};

class DeviceSamplingCudaTest : public ::testing::Test {
 protected:
  void Allocate(int32_t rows, int32_t vocab_size) {
    rows_ = rows;
    vocab_size_ = vocab_size;
    logits_ = std::make_unique<ManagedArray<float>>(size_t(rows) * vocab_size);
    params_ = std::make_unique<ManagedArray<SampleRowParams>>(rows);
    counts_ = std::make_unique<ManagedArray<uint32_t>>(size_t(rows) * vocab_size);
    entries_ = std::make_unique<ManagedArray<SampleEntry>>(size_t(rows) * kernels::kMaxSampleEntries);
    out_ = std::make_unique<ManagedArray<SampleOutput>>(rows);
    workspace_ = std::make_unique<ManagedArray<uint8_t>>(kernels::SampleWorkspaceBytes(rows, vocab_size) + 256);
  }

  void Set(int32_t r, const Case& c) {
    const SamplingParams& s = c.sampling;
    SampleRowParams& p = (*params_)[r];
    p = SampleRowParams();
    p.draw = UniformDraw(c.seed, c.output_index);
    p.scale = *s.temperature < 1e-5f ? 0 : 1.0f / *s.temperature;
    p.top_p = *s.top_p;
    p.top_k = *s.top_k;
    if (*s.min_p > 0 && p.scale > 0) p.min_p_distance = std::log(*s.min_p) / p.scale;
    p.repetition = *s.repetition_penalty;
    p.presence = s.presence_penalty;
    p.frequency = s.frequency_penalty;
    p.has_penalty = p.repetition != 1 || p.presence != 0 || p.frequency != 0;
    p.slot = r;
    uint32_t* const counts = counts_->data() + size_t(r) * vocab_size_;
    if (p.has_penalty) {
      std::vector<int32_t> ids = c.prompt;
      ids.insert(ids.end(), c.output.begin(), c.output.end());
      ManagedArray<int32_t> shared_ids(ids.size() + 1);
      std::copy(ids.begin(), ids.end(), shared_ids.data());
      kernels::CountTokensParams count;
      count.execution.device = kernels::DeviceKind::kCuda;
      count.vocab_size = vocab_size_;
      count.num_prompt = static_cast<int32_t>(c.prompt.size());
      count.num_generated = static_cast<int32_t>(c.output.size());
      count.token_ids = shared_ids.data();
      count.counts = counts;
      ASSERT_TRUE(kernels::CountTokens(count).ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    SampleEntry* entry = entries_->data() + size_t(r) * kernels::kMaxSampleEntries;
    for (const auto& [id, bias] : s.logit_bias) *entry++ = {id, bias};
    for (const int32_t id : c.banned) *entry++ = {id, 0};
    p.num_biases = static_cast<int32_t>(s.logit_bias.size());
    p.num_bans = static_cast<int32_t>(c.banned.size());
    p.num_top = c.num_logprobs;
    p.out = r;
  }

  void Run(kernels::DType dtype = kernels::DType::kF32, const void* logits = nullptr) {
    kernels::SampleParams params;
    params.execution.device = kernels::DeviceKind::kCuda;
    params.dtype = dtype;
    params.num_rows = rows_;
    params.vocab_size = vocab_size_;
    params.logits = logits != nullptr ? logits : logits_->data();
    params.rows = params_->data();
    params.counts = counts_->data();
    params.entries = entries_->data();
    params.out = out_->data();
    params.workspace = workspace_->data();
    params.workspace_bytes = workspace_->size();
    const absl::Status status = kernels::Sample(params);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  const float* logits(int32_t r) { return logits_->data() + size_t(r) * vocab_size_; }

  int32_t rows_ = 0, vocab_size_ = 0;
  std::unique_ptr<ManagedArray<float>> logits_;
  std::unique_ptr<ManagedArray<SampleRowParams>> params_;
  std::unique_ptr<ManagedArray<uint32_t>> counts_;
  std::unique_ptr<ManagedArray<SampleEntry>> entries_;
  std::unique_ptr<ManagedArray<SampleOutput>> out_;
  std::unique_ptr<ManagedArray<uint8_t>> workspace_;
};

Case RandomCase(std::mt19937_64* random, int32_t vocab_size) {
  auto& rng = *random;
  const float temperatures[] = {0, 0.2f, 0.7f, 1, 1.9f};
  const float top_ps[] = {1, 0.05f, 0.5f, 0.9f, 0.999f};
  const int32_t top_ks[] = {0, 1, 3, 40, 5000};
  const float min_ps[] = {0, 0, 0.02f, 0.5f, 1};
  Case c;
  c.sampling = ResolvedSampling(temperatures[rng() % 5], top_ps[rng() % 5], top_ks[rng() % 5], min_ps[rng() % 5]);
  c.seed = rng();
  c.output_index = static_cast<int32_t>(rng() % 100);
  const auto id = [&] { return static_cast<int32_t>(rng() % vocab_size); };
  if (rng() % 2 == 0) {
    for (int i = 0; i < 20; ++i) c.prompt.push_back(id());
    for (int i = 0; i < 20; ++i) c.output.push_back(id());
    c.sampling.repetition_penalty = rng() % 2 == 0 ? 1.3f : 1.0f;
    c.sampling.presence_penalty = 0.5f;
    c.sampling.frequency_penalty = -0.25f;
  }
  if (rng() % 3 == 0) c.sampling.logit_bias = {{id(), 3.5f}};
  if (rng() % 4 == 0) c.banned = {id(), id()};
  if (rng() % 3 == 0) c.num_logprobs = static_cast<int32_t>(rng() % 21);
  return c;
}

// A draw within 1e-5 of another token's part may fall to that one: so it must for the host at one of the ends.
bool HostMayDraw(int32_t token_id, const float* logits, int32_t vocab_size, const Case& c) {
  Sampler sampler;
  for (const double nudge : {-1e-5, 1e-5}) {
    if (sampler.SampleAt(logits, vocab_size, c.row(), UniformDraw(c.seed, c.output_index) + nudge).token_id ==
        token_id) {
      return true;
    }
  }
  return false;
}

TEST_F(DeviceSamplingCudaTest, DrawsWhatTheHostDraws) {
  std::mt19937_64 random(11);
  int num_other = 0, num_rows = 0;
  for (const int32_t vocab_size : {7, 512, 1000, 49152, 151936}) {
    Allocate(64, vocab_size);
    const int trials = vocab_size > 2000 ? 6 : 12;
    for (int trial = 0; trial < trials; ++trial) {
      std::vector<Case> cases;
      for (int32_t r = 0; r < rows_; ++r) {
        const float spread = r % 3 == 0 ? 0.3f : 4.0f;
        std::normal_distribution<float> normal(r % 5 == 0 ? -20.0f : 0.0f, spread);
        for (int32_t id = 0; id < vocab_size; ++id) {
          const float logit = normal(random);
          (*logits_)[size_t(r) * vocab_size + id] = r % 4 == 0 ? std::round(logit) : logit;  // many ties
        }
        cases.push_back(RandomCase(&random, vocab_size));
        Set(r, cases.back());
      }
      Run();
      for (int32_t r = 0; r < rows_; ++r) {
        Sampler sampler;
        const SampledToken expected = sampler.Sample(logits(r), vocab_size, cases[r].row());
        const SampleOutput& actual = (*out_)[r];
        ++num_rows;
        if (actual.token_id != expected.token_id) {
          ++num_other;
          ASSERT_TRUE(HostMayDraw(actual.token_id, logits(r), vocab_size, cases[r]))
              << "vocabulary " << vocab_size << ", row " << r << ": " << actual.token_id << ", not "
              << expected.token_id;
          continue;
        }
        if (cases[r].num_logprobs < 0 || expected.token_id == kNoToken) continue;
        ASSERT_NEAR(actual.logprob, expected.logprob.logprob, 2e-5);
        for (size_t i = 0; i < expected.logprob.top.size(); ++i) {
          ASSERT_EQ(actual.top_ids[i], expected.logprob.top[i].first) << i;
          ASSERT_NEAR(actual.top_logprobs[i], expected.logprob.top[i].second, 2e-5);
        }
      }
    }
  }
  EXPECT_LE(num_other, num_rows / 500);
}

TEST_F(DeviceSamplingCudaTest, TakesHalfPrecisionAndGivesARowTheSameBitsWhateverIsBesideIt) {
  std::mt19937_64 random(5);
  constexpr int32_t kVocabSize = 49152, kRows = 33;
  Allocate(kRows, kVocabSize);
  ManagedArray<uint16_t> half(size_t(kRows) * kVocabSize);
  std::normal_distribution<float> normal(0, 3);
  std::vector<Case> cases;
  for (int32_t r = 0; r < kRows; ++r) {
    for (int32_t id = 0; id < kVocabSize; ++id) {
      const int64_t i = int64_t{r} * kVocabSize + id;
      kernels::StoreElement(normal(random), half.data(), kernels::DType::kBF16, i);
      (*logits_)[i] = kernels::LoadElement(half.data(), kernels::DType::kBF16, i);
    }
    Case c = RandomCase(&random, kVocabSize);
    c.sampling.repetition_penalty = 1.0f;
    c.sampling.presence_penalty = c.sampling.frequency_penalty = 0;
    c.num_logprobs = 5;
    Set(r, c);
  }
  Run();
  const std::vector<SampleOutput> together(out_->data(), out_->data() + kRows);
  Run(kernels::DType::kBF16, half.data());
  for (int32_t r = 0; r < kRows; ++r) {
    EXPECT_EQ(std::memcmp(&together[r], out_->data() + r, sizeof(SampleOutput)), 0) << r;
  }
  for (int32_t r = 0; r < kRows; ++r) {
    if (r % 2 == 0) (*params_)[r].out = -1;
  }
  std::memset(static_cast<void*>(out_->data()), 0, sizeof(SampleOutput) * kRows);
  Run();
  for (int32_t r = 1; r < kRows; r += 2) {
    EXPECT_EQ(std::memcmp(&together[r], out_->data() + r, sizeof(SampleOutput)), 0) << r;
  }
  EXPECT_EQ((*out_)[0].token_id, 0) << "padding writes nothing";
}

TEST_F(DeviceSamplingCudaTest, CountsWhatItSamples) {
  constexpr int32_t kVocabSize = 1000;
  Allocate(1, kVocabSize);
  for (int32_t id = 0; id < kVocabSize; ++id) (*logits_)[id] = static_cast<float>(id % 10);
  Case c;
  c.sampling = ResolvedSampling(0);
  c.sampling.presence_penalty = 2;
  c.prompt = {3};
  Set(0, c);
  for (int32_t step = 0; step < 5; ++step) {
    Run();
    EXPECT_EQ((*out_)[0].token_id, 10 * step + 9);
    EXPECT_EQ((*counts_)[10 * step + 9], 1u);
  }
  EXPECT_EQ((*counts_)[3], kernels::kInPrompt);
}

TEST_F(DeviceSamplingCudaTest, GivesNoTokenWhereTheHostGivesNone) {
  constexpr int32_t kVocabSize = 300;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Allocate(4, kVocabSize);
  Case c;
  c.sampling = ResolvedSampling(0.8f, 0.9f);
  for (int32_t r = 0; r < 4; ++r) {
    for (int32_t id = 0; id < kVocabSize; ++id) (*logits_)[r * kVocabSize + id] = r == 2 ? -kInf : 1.0f;
    Set(r, c);
  }
  (*logits_)[17] = nan;
  (*logits_)[kVocabSize + 299] = kInf;
  (*logits_)[3 * kVocabSize + 1] = -kInf;
  Run();
  for (int32_t r = 0; r < 3; ++r) EXPECT_EQ((*out_)[r].token_id, -1) << r;
  EXPECT_GE((*out_)[3].token_id, 0);
  EXPECT_NE((*out_)[3].token_id, 1);
}

TEST_F(DeviceSamplingCudaTest, ScoresAGivenToken) {
  constexpr int32_t kVocabSize = 2000;
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal(0, 3);
  Allocate(2, kVocabSize);
  for (size_t i = 0; i < logits_->size(); ++i) (*logits_)[i] = normal(random);
  for (int32_t r = 0; r < 2; ++r) {
    SampleRowParams& p = (*params_)[r];
    p.scored_token = 100 + r;
    p.num_top = 3;
    p.out = r;
  }
  Run();
  for (int32_t r = 0; r < 2; ++r) {
    const TokenLogprob expected = Sampler().Score(logits(r), kVocabSize, {0, 100 + r, 3});
    EXPECT_EQ((*out_)[r].token_id, 100 + r);
    EXPECT_NEAR((*out_)[r].logprob, expected.logprob, 2e-5);
    for (int i = 0; i < 3; ++i) EXPECT_EQ((*out_)[r].top_ids[i], expected.top[i].first);
  }
}

TEST_F(DeviceSamplingCudaTest, FeedsTheTokensOfTheStepBefore) {
  ManagedArray<SampleOutput> sampled(2);
  sampled[0].token_id = 40;
  sampled[1].token_id = -1;
  ManagedArray<int32_t> ids(4);
  const int32_t before[] = {7, ~0, ~1, 9};
  std::copy(before, before + 4, ids.data());
  kernels::FeedTokensParams params;
  params.execution.device = kernels::DeviceKind::kCuda;
  params.num_tokens = 4;
  params.token_ids = ids.data();
  params.sampled = sampled.data();
  ASSERT_TRUE(kernels::FeedTokens(params).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(std::vector<int32_t>(ids.data(), ids.data() + 4), (std::vector<int32_t>{7, 40, 0, 9}));
}

// Microseconds, printed: 32 rows of the largest vocabulary, as a server meets them. A step of 32 rows takes 6 ms and
// more.
TEST_F(DeviceSamplingCudaTest, TakesLessThanAFifthOfAMillisecondForThirtyTwoRows) {
  constexpr int32_t kVocabSize = 151936, kRows = 32;
  void* half = nullptr;
  ASSERT_EQ(cudaMalloc(&half, size_t{2} * kRows * kVocabSize), cudaSuccess);
  std::vector<uint16_t> host(size_t{kRows} * kVocabSize);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, 3);
  for (size_t i = 0; i < host.size(); ++i) {
    kernels::StoreElement(normal(random), host.data(), kernels::DType::kBF16, static_cast<int64_t>(i));
  }
  ASSERT_EQ(cudaMemcpy(half, host.data(), host.size() * 2, cudaMemcpyHostToDevice), cudaSuccess);
  struct Kind {
    const char* name;
    float temperature, top_p;
    int32_t top_k, num_logprobs;
  };
  cudaEvent_t begin, end;
  ASSERT_EQ(cudaEventCreate(&begin), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  void *rows = nullptr, *out = nullptr;
  ASSERT_EQ(cudaMalloc(&rows, sizeof(SampleRowParams) * kRows), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&out, sizeof(SampleOutput) * kRows), cudaSuccess);
  for (const Kind& kind : {Kind{"greedy", 0, 1, 0, -1}, Kind{"temperature", 1, 1, 0, -1}, Kind{"top_k", 1, 1, 50, -1},
                           Kind{"top_p", 1, 0.9f, 0, -1}, Kind{"top_k + top_p", 0.7f, 0.9f, 50, -1},
                           Kind{"top_p + 5 logprobs", 1, 0.9f, 0, 5}}) {
    std::vector<SampleRowParams> host_rows(kRows);
    for (int32_t r = 0; r < kRows; ++r) {
      host_rows[r].draw = UniformDraw(r, 0);
      host_rows[r].scale = kind.temperature == 0 ? 0 : 1 / kind.temperature;
      host_rows[r].top_p = kind.top_p;
      host_rows[r].top_k = kind.top_k;
      host_rows[r].num_top = kind.num_logprobs;
      host_rows[r].out = r;
    }
    ASSERT_EQ(cudaMemcpy(rows, host_rows.data(), sizeof(SampleRowParams) * kRows, cudaMemcpyHostToDevice), cudaSuccess);
    kernels::SampleParams params;
    params.execution.device = kernels::DeviceKind::kCuda;
    params.dtype = kernels::DType::kBF16;
    params.vocab_size = kVocabSize;
    params.logits = half;
    params.rows = static_cast<SampleRowParams*>(rows);
    params.out = static_cast<SampleOutput*>(out);
    for (const int32_t num_rows : {1, 8, kRows}) {
      params.num_rows = num_rows;
      constexpr int kRuns = 100;
      for (int i = 0; i < 5; ++i) ASSERT_TRUE(kernels::Sample(params).ok());
      cudaEventRecord(begin);
      for (int i = 0; i < kRuns; ++i) ASSERT_TRUE(kernels::Sample(params).ok());
      cudaEventRecord(end);
      ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      printf("%-20s %3d rows %8.1f us\n", kind.name, num_rows, 1e3 * ms / kRuns);
      if (num_rows == kRows) {
        EXPECT_LT(ms / kRuns, 0.2f) << kind.name;
      }
    }
  }
  cudaFree(half), cudaFree(rows), cudaFree(out);
}

}  // namespace
}  // namespace spotlight::engine
