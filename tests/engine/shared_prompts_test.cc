// What requests that share pages answer, against what they answer alone: a whole engine on a tiny model, in fp32 equal
// to the last bit on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/load.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

using testing::HarnessOptions;
using testing::ModelHarness;

#ifdef TEST_ON_CUDA
// A chunk's length chooses how cuBLAS sums, so a prompt that starts elsewhere differs in the last places.
constexpr char kTestDevice[] = "cuda:0";
constexpr float kLogprobTolerance = 1e-3f;
#else
constexpr char kTestDevice[] = "cpu";
constexpr float kLogprobTolerance = 0;
#endif
constexpr char kFolder[] = "tests/testdata/tiny-llama";

std::vector<int32_t> Prompt(int32_t num_tokens, int32_t step = 37) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < num_tokens; ++i) ids.push_back(5 + i * step % 400);
  return ids;
}

class SharedPromptsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    hash_path_ = ::testing::TempDir() + "/hash.safetensors";
    const absl::Status written = testing::WriteUntrainedHash(kFolder, hash_path_);
    ASSERT_TRUE(written.ok()) << written;
    options_.model_folder = kFolder;
    options_.dtype = DTypeChoice::kFp32;
    options_.device = kTestDevice;
    options_.num_threads = 1;
    options_.hash = hash_path_;
    options_.allow_untrained_hash = true;
    options_.max_tokens_in_cache = 8192;
    options_.max_warm_up_seconds = 0;
    options_.scheduler.max_step_tokens = 192;
  }

  void Start(bool prefix_cache) {
    options_.scheduler.prefix_cache = prefix_cache;
    engine_.reset();
    observer_ = std::make_unique<RecordingObserver>();
    auto loaded = LoadEngine(options_, observer_.get());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    engine_ = std::move(loaded->engine);
  }

  static GenerateRequest Greedy(std::vector<int32_t> prompt, int32_t max_tokens, RetrievalMode mode) {
    GenerateRequest request;
    request.prompt = TokenPrompt{std::move(prompt)};
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.retrieval.mode = mode;
    request.logprobs = 5;
    return request;
  }

  std::shared_ptr<RecordingSink> Submit(GenerateRequest request) {
    request.request_id = std::to_string(num_requests_++);
    const auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }

  std::shared_ptr<RecordingSink> Run(GenerateRequest request) {
    const auto sink = Submit(std::move(request));
    const Finish finish = sink->WaitForFinish();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    return sink;
  }

  static void ExpectSameAnswer(const RecordingSink& a, const RecordingSink& b, int32_t index = 0) {
    EXPECT_EQ(a.token_ids(index), b.token_ids(0));
    const std::vector<TokenLogprob> x = a.logprobs(index), y = b.logprobs(0);
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(x[i].logprob, y[i].logprob, kLogprobTolerance) << i;
      if (kLogprobTolerance == 0) {
        EXPECT_EQ(x[i].top, y[i].top) << i;
      }
    }
  }

  LoadOptions options_;
  std::string hash_path_;
  std::unique_ptr<RecordingObserver> observer_;
  std::unique_ptr<Engine> engine_;
  int num_requests_ = 0;
};

TEST_F(SharedPromptsTest, AHitChangesNoBitOfAnAnswerDenseOrSparse) {
  for (const RetrievalMode mode : {RetrievalMode::kDense, RetrievalMode::kSparse}) {
    Start(/*prefix_cache=*/false);
    const auto alone = Run(Greedy(Prompt(700), 24, mode));
    EXPECT_EQ(Run(Greedy(Prompt(700), 24, mode))->finish().usage.cached_prompt_tokens, 0);
    Start(/*prefix_cache=*/true);
    const auto cold = Run(Greedy(Prompt(700), 24, mode));
    const auto hit = Run(Greedy(Prompt(700), 24, mode));
    EXPECT_EQ(cold->finish().usage.cached_prompt_tokens, 0);
    EXPECT_EQ(hit->finish().usage.cached_prompt_tokens, 640);
    ExpectSameAnswer(*cold, *alone);
    ExpectSameAnswer(*hit, *alone);
    EXPECT_EQ(hit->finish().retrieval.sparse_steps, mode == RetrievalMode::kSparse ? 23 : 0);
    EXPECT_EQ(engine_->Load().num_free_pages, 128);
  }
}

TEST_F(SharedPromptsTest, RequestsOfAllModesShareAPromptAndNoneASparseAnswer) {
  Start(/*prefix_cache=*/true);
  const auto sparse = Run(Greedy(Prompt(700), 200, RetrievalMode::kSparse));
  std::vector<int32_t> conversation = Prompt(700);
  for (const int32_t id : sparse->token_ids()) conversation.push_back(id);
  const auto next = Run(Greedy(conversation, 8, RetrievalMode::kDense));
  EXPECT_EQ(next->finish().usage.cached_prompt_tokens, 640);
  Start(/*prefix_cache=*/false);
  ExpectSameAnswer(*next, *Run(Greedy(conversation, 8, RetrievalMode::kDense)));

  Start(/*prefix_cache=*/true);
  const auto dense = Run(Greedy(Prompt(700), 200, RetrievalMode::kDense));
  conversation = Prompt(700);
  for (const int32_t id : dense->token_ids()) conversation.push_back(id);
  const auto after_dense = Run(Greedy(conversation, 8, RetrievalMode::kSparse));
  EXPECT_EQ(after_dense->finish().usage.cached_prompt_tokens, 896);  // of 900; 899 were in pages
  Start(/*prefix_cache=*/false);
  ExpectSameAnswer(*after_dense, *Run(Greedy(conversation, 8, RetrievalMode::kSparse)));
}

TEST_F(SharedPromptsTest, SaltAndBypassKeepRequestsApart) {
  Start(/*prefix_cache=*/true);
  const auto cached = [&](const std::string& salt, bool bypass) {
    GenerateRequest request = Greedy(Prompt(300), 2, RetrievalMode::kDense);
    request.cache_salt = salt;
    request.bypass_prefix_cache = bypass;
    return Run(request)->finish().usage.cached_prompt_tokens;
  };
  EXPECT_EQ(cached("a", true), 0);
  EXPECT_EQ(cached("a", false), 0) << "a request that bypasses the cache left pages in it";
  EXPECT_EQ(cached("a", false), 256);
  EXPECT_EQ(cached("a", true), 0);
  EXPECT_EQ(cached("b", false), 0);
  EXPECT_EQ(cached("", false), 0);
  EXPECT_EQ(cached("b", false), 256);
}

TEST_F(SharedPromptsTest, EachSampleIsWhatARequestOfItsSeedGives) {
  for (const bool prefix_cache : {false, true}) {
    Start(prefix_cache);
    GenerateRequest request = Greedy(Prompt(400), 20, RetrievalMode::kSparse);
    request.sampling.temperature = 1.0f;
    request.sampling.seed = 77;
    request.sampling.n = 4;
    const auto together = Run(request);
    const std::vector<Finish> finishes = together->sample_finishes();
    ASSERT_EQ(finishes.size(), 4u);
    std::vector<bool> seen(4);
    for (const Finish& finish : finishes) {
      seen[finish.index] = true;
      EXPECT_EQ(finish.reason, FinishReason::kLength);
      request.sampling.n = 1;
      request.sampling.seed = finish.seed;
      request.bypass_prefix_cache = true;
      const auto alone = Run(request);
      ExpectSameAnswer(*together, *alone, finish.index);
      EXPECT_EQ(finish.seed == 77u, finish.index == 0);
    }
    EXPECT_EQ(seen, std::vector<bool>(4, true));
    EXPECT_NE(together->token_ids(1), together->token_ids(2));
    EXPECT_EQ(together->finish().usage.prompt_tokens, 400);
    EXPECT_EQ(together->finish().usage.completion_tokens, 80);
    EXPECT_EQ(engine_->Load().num_free_pages, 128);
    // The prompt once, and the page of its last token for each further sample; then the runs of their own.
    int num_prefill_tokens = 0;
    for (const StepStats& step : observer_->steps()) num_prefill_tokens += step.num_prefill_tokens;
    EXPECT_EQ(num_prefill_tokens, 400 + 3 * (400 - 384) + 4 * 400);
  }
}

TEST_F(SharedPromptsTest, SamplesThatArePreemptedGiveTheSameTokens) {
  GenerateRequest request = Greedy(Prompt(300), 150, RetrievalMode::kDense);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 5;
  request.sampling.n = 6;
  Start(/*prefix_cache=*/true);
  const auto roomy = Run(request);
  options_.max_tokens_in_cache = 15 * 64;  // five pages of prompt, and two or three for each sample
  Start(/*prefix_cache=*/true);
  const auto tight = Run(request);
  int num_preempted = 0;
  for (const StepStats& step : observer_->steps()) num_preempted += step.num_preempted;
  EXPECT_GT(num_preempted, 0);
  for (int index = 0; index < 6; ++index) EXPECT_EQ(tight->token_ids(index), roomy->token_ids(index)) << index;
  EXPECT_EQ(engine_->Load().num_free_pages, 15);
}

TEST_F(SharedPromptsTest, PromptLogProbabilitiesAreTheModelsAndComeWholeThoughThePromptIsCached) {
  Start(/*prefix_cache=*/true);
  const std::vector<int32_t> prompt = Prompt(260);
  GenerateRequest request = Greedy(prompt, 3, RetrievalMode::kDense);
  Run(request);
  request.prompt_logprobs = 1;
  const auto sink = Run(request);
  EXPECT_EQ(sink->finish().usage.cached_prompt_tokens, 0);
  const std::vector<TokenLogprob> logprobs = sink->prompt_logprobs();
  ASSERT_EQ(logprobs.size(), 259u);
  auto harness = ModelHarness::Create(kFolder, HarnessOptions());
  ASSERT_TRUE(harness.ok()) << harness.status();
  for (const int32_t position : {0, 1, 63, 64, 190, 191, 192, 258}) {
    const auto logits = (*harness)->Prefill({prompt.begin(), prompt.begin() + position + 1});
    ASSERT_TRUE(logits.ok()) << logits.status();
    double sum = 0;
    for (const float logit : *logits) sum += std::exp(double{logit});
    const TokenLogprob& logprob = logprobs[position];
    EXPECT_EQ(logprob.token_id, prompt[position + 1]);
    EXPECT_NEAR(logprob.logprob, (*logits)[prompt[position + 1]] - std::log(sum), 1e-4 + kLogprobTolerance) << position;
    ASSERT_EQ(logprob.top.size(), 1u);
    EXPECT_EQ(logprob.top[0].first, testing::ArgMax(*logits));
  }
  request.prompt_logprobs.reset();
  EXPECT_EQ(Run(request)->finish().usage.cached_prompt_tokens, 256);
}

TEST_F(SharedPromptsTest, RequestsWithBudgetsOfTheirOwnAnswerAsAloneThoughTheyShareSteps) {
  std::vector<GenerateRequest> requests(4, Greedy(Prompt(600), 16, RetrievalMode::kSparse));
  requests[1].retrieval.sink_tokens = 0;
  requests[1].retrieval.recent_tokens = 8;
  requests[2].retrieval.min_tokens = 16;
  requests[3].retrieval.budget_ratio = 0.9;
  requests[3].retrieval.recent_tokens = 8;
  Start(/*prefix_cache=*/true);
  std::vector<std::shared_ptr<RecordingSink>> alone, together;
  for (const GenerateRequest& request : requests) alone.push_back(Run(request));
  for (const GenerateRequest& request : requests) together.push_back(Submit(request));
  const double context = 608;
  const double attended[] = {64 + 68, 64 + 8, 16 + 68, 0.9 * context + 12};
  for (size_t i = 0; i < requests.size(); ++i) {
    const RetrievalStats stats = together[i]->WaitForFinish().retrieval;
    ExpectSameAnswer(*together[i], *alone[i]);
    EXPECT_NEAR(stats.selected_ratio, attended[i] / context, 0.005) << i;
  }
}

// How far apart the logits of `a`'s and `b`'s tokens are where they first differ, in whichever run has them closer; 0:
// they do not differ. Infinity: one's token is not among the other's likeliest.
float GapAtFirstDifference(const RecordingSink& a, const RecordingSink& b) {
  const std::vector<int32_t> x = a.token_ids(), y = b.token_ids();
  const auto first = std::mismatch(x.begin(), x.end(), y.begin(), y.end());
  if (first.first == x.end() || first.second == y.end()) return 0;
  const size_t index = first.first - x.begin();
  float closest = std::numeric_limits<float>::infinity();
  for (const RecordingSink* run : {&a, &b}) {
    const int32_t other = run == &a ? *first.second : *first.first;
    const TokenLogprob logprob = run->logprobs()[index];
    for (const auto& [id, value] : logprob.top) {
      if (id == other) closest = std::min(closest, logprob.logprob - value);
    }
  }
  return closest;
}

// How far bf16 takes a logit of this model from what it is in fp32: the root of the mean square behind a few prompts.
float Bf16Error() {
  double squares = 0;
  size_t num_logits = 0;
  for (const int32_t step : {37, 11, 3, 29}) {
    std::vector<float> logits[2];
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      HarnessOptions options;
      options.dtype = dtype;
      options.device = at::Device(kTestDevice);
      auto harness = ModelHarness::Create(kFolder, options);
      EXPECT_TRUE(harness.ok()) << harness.status();
      auto result = (*harness)->Prefill(Prompt(500, step));
      EXPECT_TRUE(result.ok()) << result.status();
      logits[dtype == at::kFloat ? 0 : 1] = *std::move(result);
    }
    for (size_t i = 0; i < logits[0].size(); ++i) {
      squares += std::pow(double{logits[0][i]} - logits[1][i], 2);
    }
    num_logits += logits[0].size();
  }
  return static_cast<float>(std::sqrt(squares / num_logits));
}

// Sums in other orders round apart in bf16: cuBLAS and oneDNN choose them by the chunk's length, which follows the
// clock, and by the number of rows. Two tokens that change places are then as close as rounding takes two logits in
// either run.
void ExpectSameTokensOrANearTie(const RecordingSink& a, const RecordingSink& b, const std::string& what) {
  EXPECT_EQ(a.token_ids().size(), b.token_ids().size()) << what;
  static const float error = Bf16Error();
  const float gap = GapAtFirstDifference(a, b);
  std::printf("%s: gap %g, error %g\n", what.c_str(), gap, error);
  EXPECT_LT(gap, 4 * error) << what;
}

TEST_F(SharedPromptsTest, InBf16AHitGivesTheSameGreedyTokensOrFlipsANearTie) {
  options_.dtype = DTypeChoice::kBf16;
  for (const int32_t step : {37, 11, 3}) {
    Start(/*prefix_cache=*/false);
    const auto alone = Run(Greedy(Prompt(500, step), 32, RetrievalMode::kDense));
    Start(/*prefix_cache=*/true);
    Run(Greedy(Prompt(500, step), 1, RetrievalMode::kDense));
    const auto hit = Run(Greedy(Prompt(500, step), 32, RetrievalMode::kDense));
    EXPECT_EQ(hit->finish().usage.cached_prompt_tokens, 448);
    ExpectSameTokensOrANearTie(*hit, *alone, "hit, " + std::to_string(step));
  }
}

TEST_F(SharedPromptsTest, InBf16RequestsTogetherGiveTheGreedyTokensOfEachAloneOrFlipANearTie) {
  options_.dtype = DTypeChoice::kBf16;
  options_.scheduler.max_token_gap_seconds = 10;  // prompts beside streams in long chunks
  for (const RetrievalMode mode : {RetrievalMode::kDense, RetrievalMode::kSparse}) {
    std::vector<GenerateRequest> requests;
    for (const int32_t step : {37, 11, 3, 29, 53, 71}) {
      requests.push_back(Greedy(Prompt(500 + step, step), 32, mode));
      // All there is to select: a hash bit that flips with rounding would change what is attended to.
      requests.back().retrieval.budget_ratio = 1.0;
    }
    Start(/*prefix_cache=*/false);
    std::vector<std::shared_ptr<RecordingSink>> alone, together;
    for (const GenerateRequest& request : requests) alone.push_back(Run(request));
    size_t most_rows = 0;
    for (const GenerateRequest& request : requests) together.push_back(Submit(request));
    for (const auto& sink : together) {
      EXPECT_TRUE(sink->WaitForFinish().status.ok());
    }
    for (const StepStats& step : observer_->steps()) most_rows = std::max(most_rows, step.context_tokens.size());
    EXPECT_EQ(most_rows, requests.size()) << "they did not run together";
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(together[i]->finish().retrieval.sparse_steps, mode == RetrievalMode::kSparse ? 31 : 0);
      ExpectSameTokensOrANearTie(*together[i], *alone[i], "together, " + std::to_string(i));
    }
  }
}

TEST_F(SharedPromptsTest, InBf16PreemptedRequestsGiveTheSameGreedyTokensOrFlipANearTie) {
  options_.dtype = DTypeChoice::kBf16;
  std::vector<GenerateRequest> requests;
  for (const int32_t step : {37, 11, 3, 29}) {
    requests.push_back(Greedy(Prompt(300 + step, step), 150, RetrievalMode::kDense));
  }
  std::vector<std::shared_ptr<RecordingSink>> roomy, tight;
  Start(/*prefix_cache=*/false);
  for (const GenerateRequest& request : requests) roomy.push_back(Run(request));
  options_.max_tokens_in_cache = 26 * 64;  // they begin with 5 to 6 pages each and end with 8
  Start(/*prefix_cache=*/false);
  for (const GenerateRequest& request : requests) tight.push_back(Submit(request));
  for (const auto& sink : tight) {
    EXPECT_TRUE(sink->WaitForFinish().status.ok());
  }
  int num_preempted = 0;
  for (const StepStats& step : observer_->steps()) num_preempted += step.num_preempted;
  EXPECT_GT(num_preempted, 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    ExpectSameTokensOrANearTie(*tight[i], *roomy[i], "preempted, " + std::to_string(i));
  }
}

}  // namespace
}  // namespace spotlight::engine
