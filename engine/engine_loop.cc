#include "engine/engine_loop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/build_batch.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

// Reading the stages' clocks costs a synchronisation on some devices.
constexpr uint64_t kStepsPerRetrievalTiming = 16;

struct CancelOutcome {
  absl::Status status;
  FinishReason reason;
};

CancelOutcome OutcomeOf(CancelReason reason) {
  switch (reason) {
    case CancelReason::kClientGone:
      return {absl::CancelledError("the client went away"), FinishReason::kCancelled};
    case CancelReason::kAborted:
      return {absl::CancelledError("the request was aborted"), FinishReason::kAborted};
    case CancelReason::kDeadline:
      return {absl::DeadlineExceededError("the request's deadline passed"), FinishReason::kDeadline};
    case CancelReason::kShutdown:
      break;
  }
  return {absl::UnavailableError("the server is shutting down"), FinishReason::kAborted};
}

int32_t MaxRequestTokens(const EngineOptions& options, const ModelInfo& model) {
  const int64_t cache_tokens = int64_t{options.scheduler.num_pages} * kernels::kPageTokens;
  return static_cast<int32_t>(std::min<int64_t>(model.max_context_tokens, cache_tokens));
}

}  // namespace

EngineLoop::EngineLoop(const EngineOptions& options, const ModelInfo& model, const RetrievalPolicy& policy,
                       const QualityPolicy& quality_policy, const Tokenizer* tokenizer, ModelRunner* runner,
                       RequestQueue* queue, StatsObserver* observer, const Clock* clock)
    : model_(model),
      policy_(policy),
      quality_policy_(quality_policy),
      max_request_tokens_(MaxRequestTokens(options, model)),
      max_running_(options.scheduler.max_running),
      tokenizer_(tokenizer),
      runner_(runner),
      queue_(queue),
      observer_(observer),
      clock_(clock),
      scheduler_(options.scheduler) {
  queue_->rates()->SetBounds(options.scheduler.max_running, options.scheduler.max_step_tokens);
  PublishLoad();
}

EngineLoop::~EngineLoop() = default;

bool EngineLoop::RunOnce() {
  stats_ = StepStats();
  const bool arrived = TakeArrivals();
  if (num_with_deadline_ > 0) CheckDeadlines();
  scheduler_.PlanStep(&plan_);
  if (plan_.rows.empty()) {
    if (!stats_.cancel_releases.empty()) ReportStep();
    return arrived;
  }
  RunStep();
  return true;
}

bool EngineLoop::TakeArrivals() {
  queue_->Take(&arrivals_);
  if (arrivals_.submissions.empty() && arrivals_.cancellations.empty()) return false;
  for (const auto& submission : arrivals_.submissions) Accept(submission.get());
  for (const Cancellation& cancellation : arrivals_.cancellations) Cancel(cancellation);
  PublishLoad();
  return true;
}

void EngineLoop::Accept(Submission* submission) {
  const std::string& request_id = submission->request.request_id;
  for (const Cancellation& cancellation : arrivals_.cancellations) {
    if (cancellation.request_id != request_id) continue;
    CancelOutcome outcome = OutcomeOf(cancellation.reason);
    stats_.cancel_releases.push_back({RequestPhase::kQueued, absl::ToDoubleSeconds(clock_->Now() - cancellation.time)});
    return Reject(*submission, std::move(outcome.status), outcome.reason);
  }
  if (!fault_.ok()) return Reject(*submission, fault_, FinishReason::kError);
  if (!submission->status.ok()) return Reject(*submission, submission->status, FinishReason::kError);

  const uint64_t sequence_id = next_sequence_id_++;
  auto request = ActiveRequest::Create(submission, sequence_id, model_, tokenizer_, max_request_tokens_);
  if (!request.ok()) return Reject(*submission, request.status(), FinishReason::kError);
  Sequence* const sequence = (*request)->sequence();
  ResponseSink* const sink = (*request)->sink();
  sequence_ids_.emplace(request_id, sequence_id);
  if ((*request)->deadline() < absl::InfiniteDuration()) ++num_with_deadline_;
  requests_.emplace(sequence_id, *std::move(request));
  ++num_unscheduled_;
  scheduler_.Add(sequence);
  sink->OnPrompt(static_cast<int32_t>(sequence->prompt_token_ids.size()));
}

void EngineLoop::Cancel(const Cancellation& cancellation) {
  const auto found = sequence_ids_.find(cancellation.request_id);
  if (found == sequence_ids_.end()) return;  // rejected in Accept, or it ended in the step before
  ActiveRequest* const request = requests_.at(found->second).get();
  // Tokens come one a step: at most the latest was made after the client left.
  const bool made_token = request->output()->num_tokens() > 0;
  const int32_t wasted_tokens = made_token && request->last_token() >= cancellation.time ? 1 : 0;
  scheduler_.Finish(request->sequence());
  stats_.cancel_releases.push_back({request->phase(), absl::ToDoubleSeconds(clock_->Now() - cancellation.time)});
  CancelOutcome outcome = OutcomeOf(cancellation.reason);
  End(request, request->MakeFinish(std::move(outcome.status), outcome.reason), wasted_tokens);
}

void EngineLoop::CheckDeadlines() {
  const absl::Duration now = clock_->Now();
  const Rates rates = queue_->rates()->Read();
  std::vector<Cancellation> passed;
  std::vector<std::pair<ActiveRequest*, absl::Status>> late;
  for (const auto& [sequence_id, request] : requests_) {
    const absl::Duration deadline = request->deadline();
    if (deadline == absl::InfiniteDuration()) continue;
    if (deadline <= now) {
      passed.push_back({request->request_id(), CancelReason::kDeadline, deadline});
    } else if (!request->scheduled()) {
      absl::Status status = CheckStart(rates, request->work(), now - request->accepted(), deadline - now);
      if (!status.ok()) late.emplace_back(request.get(), std::move(status));
    }
  }
  for (const Cancellation& cancellation : passed) Cancel(cancellation);
  for (auto& [request, status] : late) {
    scheduler_.Finish(request->sequence());
    End(request, request->MakeFinish(std::move(status), FinishReason::kError));
  }
}

void EngineLoop::RunStep() {
  const absl::Duration start = clock_->Now();
  const bool saturated = scheduler_.num_waiting() > 0 || scheduler_.num_running() == max_running_;
  MarkScheduled(start);
  SplitByRetrieval(policy_, &plan_);
  BuildBatch(plan_, &batch_);
  const bool sparse = plan_.num_dense_rows < plan_.num_decode_rows;
  batch_.time_retrieval = sparse && num_steps_++ % kStepsPerRetrievalTiming == 0;
  batch_.quality = quality_policy_.PlanSample(plan_);

  absl::StatusOr<StepResult> result = runner_->Run(batch_);
  if (!result.ok()) return Fail(result.status());
  if (result->tokens.size() != batch_.samples.size()) {
    return Fail(absl::InternalError(
        absl::StrCat("the runner gave ", result->tokens.size(), " tokens for ", batch_.samples.size(), " rows")));
  }
  const absl::Duration now = clock_->Now();
  scheduler_.Commit(plan_, result->tokens);

  stats_.num_decode_rows = plan_.num_decode_rows;
  stats_.num_prefill_tokens = batch_.num_tokens() - plan_.num_decode_rows;
  stats_.num_preempted = plan_.num_preempted;
  stats_.retrieval = result->retrieval;
  stats_.cuda_graph = result->cuda_graph;
  if (batch_.quality.has_value() && result->quality.has_value()) JudgeRetrieval(*result->quality);
  size_t next_token = 0;
  for (int32_t r = 0; r < batch_.num_rows; ++r) {
    const PlanRow& row = plan_.rows[r];
    ActiveRequest* const request = requests_.at(row.sequence->id).get();
    if (r < plan_.num_decode_rows) CountDecodeRow(row, request);
    if (row.samples) Deliver(result->tokens[next_token++], request, now);
  }
  PublishLoad();
  stats_.step_seconds = absl::ToDoubleSeconds(clock_->Now() - start);
  queue_->rates()->OnStep(
      {stats_.step_seconds, stats_.num_decode_rows, stats_.num_prefill_tokens, num_ended_, saturated});
  num_ended_ = 0;
  ReportStep();
}

void EngineLoop::MarkScheduled(absl::Duration now) {
  // Decode rows have been scheduled before.
  for (size_t r = plan_.num_decode_rows; r < plan_.rows.size(); ++r) {
    ActiveRequest* const request = requests_.at(plan_.rows[r].sequence->id).get();
    if (request->scheduled()) continue;
    request->OnScheduled(now);
    queue_->MarkRunning(request->request_id());
    --num_unscheduled_;
  }
}

void EngineLoop::JudgeRetrieval(const RetrievalQuality& measured) {
  Sequence* const sequence = plan_.rows[batch_.quality->row].sequence;
  stats_.quality = quality_policy_.Judge(measured, batch_.quality->layer, sequence);
  requests_.at(sequence->id)->OnQualitySample(*stats_.quality);
}

void EngineLoop::CountDecodeRow(const PlanRow& row, ActiveRequest* request) {
  const int32_t context_len = row.begin + row.num_tokens;
  const int32_t num_select = row.retrieval.num_select;
  const KvTraffic traffic = policy_.Traffic(num_select, context_len);
  request->OnDecodeRow(policy_, row.retrieval, context_len, traffic);
  stats_.context_tokens.push_back(context_len);
  stats_.kv_read_bytes += traffic.read_bytes;
  stats_.kv_dense_equivalent_bytes += traffic.dense_equivalent_bytes;
  if (num_select == 0) {
    stats_.dense_rows.push_back(row.retrieval.dense_reason);
  } else {
    stats_.sparse_rows.push_back({context_len, policy_.NumCandidates(context_len), num_select});
  }
}

void EngineLoop::Deliver(const SampledToken& token, ActiveRequest* request, absl::Duration now) {
  const auto fail = [&](absl::Status status) {
    scheduler_.Finish(request->sequence());
    End(request, request->MakeFinish(std::move(status), FinishReason::kError));
  };
  if (token.token_id == kNoToken) return fail(absl::InternalError("the model's logits hold no usable value"));

  const bool first = request->output()->num_tokens() == 0;
  const double since_last = request->OnToken(now);
  if (!first) stats_.inter_token_seconds.push_back(since_last);
  ++stats_.num_generated_tokens;
  absl::StatusOr<OutputProcessor::Output> output = request->output()->Process(token);
  if (!output.ok()) return fail(output.status());
  request->sink()->OnDelta(std::move(output->delta));
  if (output->reason == FinishReason::kNone) return;

  scheduler_.Finish(request->sequence());
  Finish finish = request->MakeFinish(absl::OkStatus(), output->reason);
  queue_->rates()->OnAnswered({finish.usage.prompt_tokens, finish.usage.cached_prompt_tokens,
                               finish.usage.completion_tokens, request->work().max_answer_tokens});
  finish.matched_stop = std::move(output->matched_stop);
  finish.matched_stop_token = output->matched_stop_token;
  End(request, std::move(finish));
}

void EngineLoop::Fail(const absl::Status& fault) {
  fault_ = absl::InternalError(absl::StrCat("device fault: ", fault.message()));
  queue_->Close(absl::UnavailableError(absl::StrCat("the engine has stopped: ", fault_.message())));
  while (!requests_.empty()) {
    ActiveRequest* const request = requests_.begin()->second.get();
    scheduler_.Finish(request->sequence());
    End(request, request->MakeFinish(fault_, FinishReason::kError));
  }
}

void EngineLoop::End(ActiveRequest* request, Finish finish, int32_t wasted_tokens) {
  if (request->scheduled()) {
    ++num_ended_;
  } else {
    --num_unscheduled_;
  }
  if (request->deadline() < absl::InfiniteDuration()) --num_with_deadline_;
  sequence_ids_.erase(request->request_id());
  const auto found = requests_.find(request->sequence()->id);
  const std::unique_ptr<ActiveRequest> ended = std::move(found->second);
  requests_.erase(found);
  // Pages and id are free before anyone hears of the end.
  queue_->Release(ended->request_id());
  PublishLoad();
  if (observer_ != nullptr) {
    RequestStats stats;
    stats.request_id = ended->request_id();
    stats.finish = finish;
    stats.phase = ended->phase();
    stats.end_to_end_seconds = absl::ToDoubleSeconds(clock_->Now() - ended->accepted());
    stats.wasted_tokens = wasted_tokens;
    observer_->OnRequestEnd(stats);
  }
  ended->sink()->OnFinish(std::move(finish));
  queue_->End();
}

void EngineLoop::Reject(const Submission& submission, absl::Status status, FinishReason reason) {
  queue_->Release(submission.request.request_id);
  Finish finish;
  finish.status = std::move(status);
  finish.reason = reason;
  finish.seed = *submission.request.sampling.seed;
  finish.usage.prompt_tokens = static_cast<int32_t>(submission.prompt_token_ids.size());
  if (observer_ != nullptr) {
    RequestStats stats;
    stats.request_id = submission.request.request_id;
    stats.finish = finish;
    stats.end_to_end_seconds = absl::ToDoubleSeconds(clock_->Now() - submission.accepted);
    observer_->OnRequestEnd(stats);
  }
  submission.sink->OnFinish(std::move(finish));
  queue_->End();
}

void EngineLoop::PublishLoad() {
  EngineLoad load;
  load.num_running = scheduler_.num_running();
  load.num_waiting = scheduler_.num_waiting() - num_unscheduled_;
  load.num_pages = scheduler_.pages().num_pages();
  load.num_free_pages = scheduler_.pages().num_free();
  load.healthy = fault_.ok();
  queue_->rates()->OnLoad(load.num_running, scheduler_.prefill_tokens_left());
  MutexLock lock(&load_mutex_);
  load_ = load;
}

EngineLoad EngineLoop::load() const {
  MutexLock lock(&load_mutex_);
  return load_;
}

void EngineLoop::ReportStep() {
  if (observer_ != nullptr) observer_->OnStep(stats_);
}

}  // namespace spotlight::engine
