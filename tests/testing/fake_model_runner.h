// A model runner without a model: scripted tokens, or tokens that depend on every token of the context.
//
// It keeps a cache of token ids in the pages, writes and reads it as a model would its keys and values, and derives the
// logits from what it reads there. A page that is lost, shared by two sequences or written at the wrong slot changes
// the tokens; a malformed batch is an error. Sampling is the engine's own, so penalties, bans, seeds and
// log-probabilities work.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/batch.h"
#include "engine/model_runner.h"
#include "engine/mutex.h"
#include "engine/sampler.h"

namespace spotlight::engine {

// Launch and Wait are called on one thread; everything else is thread-safe. Owned by an engine it is reached by a plain
// pointer.
class FakeModelRunner : public ModelRunner {
 public:
  FakeModelRunner(int32_t num_pages, int32_t vocab_size);

  // Greedy sequences whose prompt begins with `first_prompt_token` generate `tokens`, the last one for ever.
  void Script(int32_t first_prompt_token, std::vector<int32_t> tokens);
  // Logits of such sequences are NaN from their output token `output_index` on.
  void ScriptNan(int32_t first_prompt_token, int32_t output_index);
  // What the samples of such sequences measure as attention mass, the last one for ever; 1 of all others.
  void ScriptAttentionMass(int32_t first_prompt_token, std::vector<float> masses);
  // Every step from now on fails.
  void Fail(absl::Status status);
  // Called at the end of each Launch, on its thread: lets a test move the clock or cancel while a step is under way.
  void OnRun(std::function<void(const Batch&)> callback);
  // Called when a step is waited for, before its result is there.
  void OnWait(std::function<void()> callback);
  // Steps under way at once; 1 unless told. With 2 a step's quality comes with the next one's result.
  void SetMaxInFlight(int32_t steps);
  // Batches of so many decode rows, and nothing else, are prepared for when the first of them is launched: a capture of
  // a graph, which ends so.
  void PrepareBatchesOf(int32_t num_decode_rows, absl::Status capture = absl::OkStatus());
  // Steps of such batches say that their kind awaits a graph.
  void AwaitGraphs(std::function<bool(const Batch&)> awaits);
  // Steps that begin wait until Resume.
  void Pause();
  void Resume();

  int64_t num_runs() const;
  // The most tokens that one step had, and the most rows.
  int32_t max_step_tokens() const;
  int32_t max_rows() const;

  int32_t max_in_flight() const override;
  bool PreparesFor(const Batch& batch) const override;
  // Computes the step, what it samples included.
  absl::Status Launch(const Batch& batch) override;
  absl::StatusOr<StepResult> Wait() override;

 private:
  absl::Status Check(const Batch& batch) const;
  // `batch` with the tokens of the step before in place.
  Batch Fed(const Batch& batch) const;
  void Append(const Batch& batch);
  QualityReading Measure(const Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The token at `position` of row `row`, through its page table.
  int32_t CachedToken(const Batch& batch, int32_t row, int32_t position) const;
  // After the row's first `context_len` tokens; output_index -1: of a prompt token that is scored.
  void FillLogits(const Batch& batch, int32_t row, int32_t context_len, int32_t output_index)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int32_t num_pages_;
  const int32_t vocab_size_;
  std::vector<int32_t> cache_;  // [num_pages, kPageTokens]; -1: never written
  std::vector<float> logits_;
  Sampler sampler_;
  std::vector<SampledToken> tokens_before_;  // of the latest step
  std::deque<StepResult> results_;           // of those not waited for
  absl::optional<QualityReading> quality_;   // of the latest step, to come with the next

  mutable Mutex mutex_;
  CondVar resumed_;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, std::vector<int32_t>> scripts_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, int32_t> nan_from_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, std::vector<float>> masses_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const Batch&)> on_run_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_wait_ ABSL_GUARDED_BY(mutex_);
  int32_t max_in_flight_ ABSL_GUARDED_BY(mutex_) = 1;
  int32_t rows_to_prepare_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: nothing
  absl::Status capture_ ABSL_GUARDED_BY(mutex_);
  std::function<bool(const Batch&)> awaits_graph_ ABSL_GUARDED_BY(mutex_);
  int64_t num_runs_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t max_step_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t max_rows_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spotlight::engine
