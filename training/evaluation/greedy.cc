#include "training/evaluation/greedy.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"

namespace spotlight::training {
namespace {

class CollectingSink : public engine::ResponseSink {
 public:
  void OnPrompt(int32_t) override {}
  void OnDelta(engine::Delta delta) override {
    MutexLock lock(&mutex_);
    answer_.token_ids.insert(answer_.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    answer_.text += delta.text;
  }
  void OnFinish(engine::Finish finish) override {
    MutexLock lock(&mutex_);
    answer_.selected_ratio = finish.retrieval.selected_ratio;
    answer_.sparse_steps = finish.retrieval.sparse_steps;
    status_ = std::move(finish.status);
    finished_ = true;
    changed_.NotifyAll();
  }
  absl::StatusOr<GreedyAnswer> Wait() {
    MutexLock lock(&mutex_);
    while (!finished_) changed_.Wait(&mutex_);
    if (!status_.ok()) return status_;
    return std::move(answer_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  GreedyAnswer answer_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

absl::StatusOr<GreedyAnswer> AnswerGreedily(engine::Engine* engine, const std::vector<int32_t>& prompt,
                                            int32_t num_tokens, absl::optional<double> budget_ratio) {
  engine::GenerateRequest request;
  request.request_id = "evaluation";
  request.prompt = engine::TokenPrompt{prompt};
  // A checkpoint's generation config may ask for more than the best token.
  request.sampling.temperature = 0;
  request.sampling.top_k = 0;
  request.sampling.top_p = request.sampling.repetition_penalty = 1;
  request.sampling.min_p = 0;
  request.stopping.max_tokens = num_tokens;
  request.stopping.ignore_eos = true;
  request.retrieval.mode = budget_ratio.has_value() ? engine::RetrievalMode::kSparse : engine::RetrievalMode::kDense;
  request.retrieval.budget_ratio = budget_ratio;
  auto sink = std::make_shared<CollectingSink>();
  const absl::Status submitted = engine->Submit(std::move(request), sink);
  if (!submitted.ok()) return submitted;
  return sink->Wait();
}

}  // namespace spotlight::training
