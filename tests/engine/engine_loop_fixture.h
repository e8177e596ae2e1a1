// A loop on the test's own thread, pass by pass: fake model and clock, the tiny model's tokenizer.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_loop.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/sampling.h"
#include "tests/testing/tiny_model.h"

namespace spotlight::engine {

class EngineLoopTest : public ::testing::Test {
 protected:
  EngineLoopTest() {
    options_.scheduler.num_pages = 64;
    options_.scheduler.max_running = 8;
    options_.scheduler.max_step_tokens = 128;
  }

  void Start(const ModelInfo& model = TinyModelInfo()) {
    model_ = model;
    tokenizer_ = LoadTinyTokenizer();
    ASSERT_NE(tokenizer_, nullptr);
    runner_ = std::make_unique<FakeModelRunner>(options_.scheduler.num_pages, kTinyVocabSize);
    queue_ = std::make_unique<RequestQueue>(options_.queue);
    loop_ = std::make_unique<EngineLoop>(options_, model_, *RetrievalPolicy::Create(options_.retrieval, model_),
                                         *QualityPolicy::Create(options_.quality, options_.retrieval, model_),
                                         tokenizer_.get(), runner_.get(), queue_.get(), &observer_, &clock_);
  }

  static GenerateRequest Request(const std::string& id, int32_t max_tokens) {
    GenerateRequest request;
    request.request_id = id;
    request.sampling = testing::ResolvedSampling(0);
    request.sampling.seed = 17;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    return request;
  }

  // `page_hashes` empty: without the prefix cache.
  std::shared_ptr<RecordingSink> Submit(GenerateRequest request, std::vector<int32_t> prompt,
                                        std::vector<PageHash> page_hashes = {}) {
    auto submission = std::make_unique<Submission>();
    auto sink = std::make_shared<RecordingSink>();
    Reservation reservation(request.key());
    reservation.num_samples = request.sampling.n;
    reservation.sink = sink.get();
    EXPECT_TRUE(queue_->Reserve(reservation).ok());
    EXPECT_TRUE(queue_->ReserveTokens(request.key(), static_cast<int64_t>(prompt.size())).ok());
    submission->request = std::move(request);
    submission->distinct_prompt_token_ids = prompt;  // repeats do no harm
    submission->prompt_token_ids = std::move(prompt);
    submission->page_hashes = std::move(page_hashes);
    submission->sink = sink;
    submission->accepted = clock_.Now();
    queue_->Push(std::move(submission));
    return sink;
  }

  void RunUntilIdle() {
    for (int pass = 0; loop_->RunOnce(); ++pass) ASSERT_LT(pass, 100000);
  }

  EngineOptions options_;
  ModelInfo model_;
  FakeClock clock_;
  RecordingObserver observer_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<FakeModelRunner> runner_;
  std::unique_ptr<RequestQueue> queue_;
  std::unique_ptr<EngineLoop> loop_;
};

inline std::vector<int32_t> PromptIds(int32_t size, int32_t first) {
  std::vector<int32_t> ids(size);
  for (int32_t i = 0; i < size; ++i) ids[i] = (first + i * 31) % 500;
  ids[0] = first;
  return ids;
}

}  // namespace spotlight::engine
