#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"
#include "engine/response_sink.h"
#include "gtest/gtest.h"

namespace spotlight::engine {

// Keeps all that an engine says about a request, and fails the test when it breaks the sink's contract. Thread-safe.
class RecordingSink : public ResponseSink {
 public:
  void OnPrompt(int32_t prompt_tokens) override {
    MutexLock lock(&mutex_);
    EXPECT_EQ(prompt_tokens_, -1) << "OnPrompt twice";
    EXPECT_TRUE(deltas_.empty()) << "OnPrompt after a delta";
    prompt_tokens_ = prompt_tokens;
  }
  void OnDelta(Delta delta) override {
    MutexLock lock(&mutex_);
    EXPECT_NE(prompt_tokens_, -1) << "a delta before OnPrompt";
    EXPECT_TRUE(!delta.has_prompt() || deltas_.empty() || deltas_.back().has_prompt()) << "the prompt after its answer";
    EXPECT_FALSE(finished_) << "a delta after OnFinish";
    deltas_.push_back(std::move(delta));
    changed_.NotifyAll();
  }
  void OnSampleFinish(Finish finish) override {
    MutexLock lock(&mutex_);
    EXPECT_FALSE(finished_) << "a sample's end after OnFinish";
    sample_finishes_.push_back(std::move(finish));
  }
  void OnFinish(Finish finish) override {
    MutexLock lock(&mutex_);
    EXPECT_FALSE(finished_) << "OnFinish twice";
    finished_ = true;
    sample_finishes_.push_back(finish);
    finish_ = std::move(finish);
    changed_.NotifyAll();
  }

  Finish WaitForFinish() {
    MutexLock lock(&mutex_);
    while (!finished_) changed_.Wait(&mutex_);
    return finish_;
  }
  void WaitForDeltas(size_t count) {
    MutexLock lock(&mutex_);
    while (deltas_.size() < count && !finished_) changed_.Wait(&mutex_);
  }
  bool finished() const {
    MutexLock lock(&mutex_);
    return finished_;
  }
  Finish finish() const {
    MutexLock lock(&mutex_);
    EXPECT_TRUE(finished_);
    return finish_;
  }
  std::vector<Delta> deltas() const {
    MutexLock lock(&mutex_);
    return deltas_;
  }
  int32_t prompt_tokens() const {
    MutexLock lock(&mutex_);
    return prompt_tokens_;
  }
  std::string text() const {
    MutexLock lock(&mutex_);
    std::string text;
    for (const Delta& delta : deltas_) text += delta.text;
    return text;
  }
  std::vector<int32_t> token_ids(int32_t index = 0) const {
    MutexLock lock(&mutex_);
    std::vector<int32_t> ids;
    for (const Delta& delta : deltas_) {
      if (delta.index == index) ids.insert(ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    }
    return ids;
  }
  std::vector<TokenLogprob> logprobs(int32_t index = 0) const {
    MutexLock lock(&mutex_);
    std::vector<TokenLogprob> logprobs;
    for (const Delta& delta : deltas_) {
      if (delta.index == index) logprobs.insert(logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    }
    return logprobs;
  }
  std::string prompt_text() const {
    MutexLock lock(&mutex_);
    std::string text;
    for (const Delta& delta : deltas_) text += delta.prompt_text;
    return text;
  }
  std::vector<TokenLogprob> prompt_logprobs() const {
    MutexLock lock(&mutex_);
    std::vector<TokenLogprob> logprobs;
    for (const Delta& delta : deltas_) {
      logprobs.insert(logprobs.end(), delta.prompt_logprobs.begin(), delta.prompt_logprobs.end());
    }
    return logprobs;
  }
  // In the order in which the samples ended.
  std::vector<Finish> sample_finishes() const {
    MutexLock lock(&mutex_);
    return sample_finishes_;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  int32_t prompt_tokens_ ABSL_GUARDED_BY(mutex_) = -1;
  std::vector<Delta> deltas_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Finish finish_ ABSL_GUARDED_BY(mutex_);
  std::vector<Finish> sample_finishes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::engine
