#include "engine/engine_loop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/build_batch.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

// The stages' clocks are read now and then: on a CPU that costs a little, on a GPU a copy.
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

absl::Status UnusableLogits() {
  return absl::InternalError("the model's logits hold no usable value");
}

int32_t MaxRequestTokens(const EngineOptions& options, const ModelInfo& model) {
  const int64_t cache_tokens = int64_t{options.scheduler.num_pages} * kernels::kPageTokens;
  return static_cast<int32_t>(std::min<int64_t>(model.max_context_tokens, cache_tokens));
}

absl::Duration MaxStep(const EngineOptions& options) {
  return options.max_step_seconds > 0 ? absl::Seconds(options.max_step_seconds) : absl::InfiniteDuration();
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
      scheduler_(options.scheduler),
      watch_(MaxStep(options)) {
  queue_->rates()->SetBounds(options.scheduler.max_running, options.scheduler.max_step_tokens);
  PublishLoad();
}

EngineLoop::~EngineLoop() = default;

bool EngineLoop::RunOnce() {
  const bool arrived = TakeArrivals();
  if (!deadlines_.empty()) CheckDeadlines();
  Step* const step = under_way_ == &steps_[0] ? &steps_[1] : &steps_[0];
  step->start = clock_->Now();
  scheduler_.PlanStep(&step->plan);
  stats_.num_preempted += step->plan.num_preempted;
  if (!step->plan.rows.empty() || under_way_ != nullptr) {
    watch_.Mark();
    if (step->plan.rows.empty()) {
      EndStep();
    } else {
      LaunchStep(step);
    }
    if (under_way_ == nullptr) watch_.MarkIdle();
    return true;
  }
  if (!stats_.cancel_releases.empty()) ReportStep();
  return arrived;
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
  const RequestKey key = submission->request.key();
  for (const Cancellation& cancellation : arrivals_.cancellations) {
    if (!(cancellation.key == key)) continue;
    CancelOutcome outcome = OutcomeOf(cancellation.reason);
    stats_.cancel_releases.push_back({RequestPhase::kQueued, absl::ToDoubleSeconds(clock_->Now() - cancellation.time)});
    return Reject(*submission, std::move(outcome.status), outcome.reason);
  }
  if (!fault_.ok()) return Reject(*submission, fault_, FinishReason::kError);
  if (!submission->status.ok()) return Reject(*submission, submission->status, FinishReason::kError);

  auto samples = ActiveRequest::Create(submission, next_sequence_id_, model_, tokenizer_, max_request_tokens_);
  if (!samples.ok()) return Reject(*submission, samples.status(), FinishReason::kError);
  const Sequence& first = *samples->front()->sequence();
  ResponseSink* const sink = samples->front()->sink();
  sequence_ids_.emplace(key, first.id);
  const absl::Duration deadline = samples->front()->deadline();
  if (deadline < absl::InfiniteDuration()) deadlines_.emplace(deadline, first.id);
  next_sequence_id_ += samples->size();
  for (auto& sample : *samples) {
    Sequence* const sequence = sample->sequence();
    requests_.emplace(sequence->id, std::move(sample));
    ++num_unstarted_;
    scheduler_.Add(sequence);
  }
  sink->OnPrompt(first.num_prompt_tokens());
  if (submission->request.echo) requests_.at(first.id)->Echo(submission->prompt_text);
}

void EngineLoop::Cancel(const Cancellation& cancellation) {
  const auto found = sequence_ids_.find(cancellation.key);
  if (found == sequence_ids_.end()) return;  // rejected in Accept, or it ended in the step before
  const CancelOutcome outcome = OutcomeOf(cancellation.reason);
  EndSamples(found->second, outcome.status, outcome.reason, cancellation.time);
}

void EngineLoop::EndSamples(uint64_t first_sample_id, const absl::Status& status, FinishReason reason,
                            absl::optional<absl::Duration> cancelled) {
  std::vector<ActiveRequest*> left;
  // Ids of one request follow each other, and whoever is left knows how many there were.
  int32_t num_samples = kMaxSamples;
  for (int32_t index = 0; index < num_samples; ++index) {
    const auto found = requests_.find(first_sample_id + index);
    if (found == requests_.end()) continue;
    ActiveRequest* const sample = found->second.get();
    if (sample->sequence()->first_sample_id != first_sample_id) break;
    num_samples = sample->sequence()->num_samples;
    scheduler_.Finish(sample->sequence());
    left.push_back(sample);
  }
  if (cancelled.has_value() && !left.empty()) {
    RequestPhase phase = RequestPhase::kQueued;
    for (const ActiveRequest* const sample : left) phase = std::max(phase, sample->furthest_phase());
    stats_.cancel_releases.push_back({phase, absl::ToDoubleSeconds(clock_->Now() - *cancelled)});
  }
  for (ActiveRequest* const sample : left) {
    // Tokens come one a step: at most the latest was made after the client left.
    const bool wasted =
        cancelled.has_value() && sample->output()->num_tokens() > 0 && sample->last_token() >= *cancelled;
    End(sample, sample->MakeFinish(status, reason), wasted ? 1 : 0);
  }
}

ActiveRequest* EngineLoop::FindSample(const Sequence& sequence) {
  for (int32_t index = 0; index < sequence.num_samples; ++index) {
    const auto found = requests_.find(sequence.first_sample_id + index);
    if (found != requests_.end()) return found->second.get();
  }
  return nullptr;
}

void EngineLoop::CheckDeadlines() {
  const absl::Duration now = clock_->Now();
  const Rates rates = queue_->rates()->Read();
  std::vector<std::pair<uint64_t, absl::Duration>> passed;
  std::vector<std::pair<uint64_t, absl::Status>> late;
  for (const auto& [deadline, first_sample_id] : deadlines_) {
    if (deadline <= now) {
      passed.emplace_back(first_sample_id, deadline);
      continue;
    }
    const auto first = requests_.find(first_sample_id);  // the other samples wait for it
    if (first == requests_.end() || first->second->scheduled()) continue;
    const ActiveRequest& request = *first->second;
    absl::Status status = CheckStart(rates, request.work(), now - request.accepted(), deadline - now);
    if (!status.ok()) late.emplace_back(first_sample_id, std::move(status));
  }
  const CancelOutcome outcome = OutcomeOf(CancelReason::kDeadline);
  for (const auto& [sample_id, deadline] : passed) EndSamples(sample_id, outcome.status, outcome.reason, deadline);
  for (const auto& [sample_id, status] : late) EndSamples(sample_id, status, FinishReason::kError, absl::nullopt);
}

void EngineLoop::LaunchStep(Step* step) {
  step->number = ++num_planned_;
  step->saturated = scheduler_.num_waiting() > 0 || scheduler_.num_running() == max_running_;
  MarkScheduled(step->plan, step->start);
  SplitByRetrieval(policy_, &step->plan);
  Batch& batch = step->batch;
  BuildBatch(step->plan, &batch);
  const bool just_decodes = batch.num_rows == batch.num_decode_rows;
  const bool sparse = step->plan.num_dense_rows < step->plan.num_decode_rows;
  batch.time_retrieval = just_decodes && sparse && num_sparse_steps_++ % kStepsPerRetrievalTiming == 0;
  batch.quality = quality_policy_.PlanSample(step->plan);

  const bool prepares = runner_->PreparesFor(batch);
  step->usual = !prepares && !batch.quality.has_value();
  if (under_way_ != nullptr && prepares) {
    EndStep();
    for (SampleRow& sample : batch.samples) sample.fed_sample = -1;  // the sequences have their tokens by now
  }
  if (!fault_.ok()) return;
  // What is under way is seen to end after this launch, and a chunk's may take longer than a step that only decodes.
  if (under_way_ != nullptr && !just_decodes && under_way_->batch.num_rows == under_way_->batch.num_decode_rows) {
    under_way_->usual = false;
  }
  if (absl::Status launched = runner_->Launch(batch); !launched.ok()) return Fail(launched);
  scheduler_.Advance(step->plan);
  if (under_way_ != nullptr) EndStep();
  if (!fault_.ok()) return;
  under_way_ = step;
  if (runner_->max_in_flight() < 2) EndStep();
}

void EngineLoop::EndStep() {
  const Step& step = *std::exchange(under_way_, nullptr);
  const StepPlan& plan = step.plan;
  const Batch& batch = step.batch;
  const absl::Duration wait_start = clock_->Now();
  absl::StatusOr<StepResult> result = runner_->Wait();
  if (!result.ok()) return Fail(result.status());
  if (result->tokens.size() != batch.samples.size() || result->scored.size() != batch.scored.size()) {
    return Fail(absl::InternalError(absl::StrCat("the runner gave ", result->tokens.size(), " tokens for ",
                                                 batch.samples.size(), " rows and ", result->scored.size(),
                                                 " log-probabilities for ", batch.scored.size(), " prompt tokens")));
  }
  const absl::Duration now = clock_->Now();
  watch_.Mark();
  waited_ += now - wait_start;
  scheduler_.Commit(plan, result->tokens);

  stats_.num_decode_rows = plan.num_decode_rows;
  stats_.num_prefill_tokens = batch.num_tokens() - plan.num_decode_rows;
  stats_.num_prefix_query_tokens = plan.num_prefix_query_tokens;
  stats_.num_prefix_hit_tokens = plan.num_prefix_hit_tokens;
  stats_.retrieval = result->retrieval;
  stats_.cuda_graph = result->cuda_graph;
  stats_.graph_capture = result->graph_capture;
  if (result->quality.has_value()) JudgeRetrieval(*result->quality);
  size_t next_token = 0, next_scored = 0;
  for (int32_t r = 0; r < batch.num_rows; ++r) {
    const PlanRow& row = plan.rows[r];
    const size_t first_scored = next_scored;
    while (next_scored < batch.scored.size() && batch.scored[next_scored].token_index < batch.query_begin[r + 1]) {
      ++next_scored;
    }
    const SampledToken* const token = row.samples ? &result->tokens[next_token++] : nullptr;
    if (row.sequence->phase == SequencePhase::kOver) {
      stats_.num_discarded_tokens += token != nullptr ? 1 : 0;
      continue;
    }
    ActiveRequest* const request = requests_.at(row.sequence->id).get();
    if (r < plan.num_decode_rows) CountDecodeRow(row, request);
    const bool is_sound =
        DeliverPromptLogprobs(row.sequence, result->scored.data() + first_scored, next_scored - first_scored);
    if (is_sound && token != nullptr) Deliver(*token, request, now);
  }
  for (const auto& [first_sample_id, status] : std::exchange(failed_, {})) {
    EndSamples(first_sample_id, status, FinishReason::kError, absl::nullopt);
  }
  num_steps_ended_ = step.number;
  const auto is_unused = [&](const auto& over) { return over.first <= num_steps_ended_; };
  over_.erase(std::remove_if(over_.begin(), over_.end(), is_unused), over_.end());
  PublishLoad();

  const absl::Duration end = clock_->Now(), begin = std::max(step.start, last_end_);
  stats_.step_seconds = absl::ToDoubleSeconds(end - begin);
  stats_.host_seconds = std::max(0.0, absl::ToDoubleSeconds(end - begin - waited_));
  last_end_ = end;
  waited_ = absl::ZeroDuration();
  // A result that comes late was measured while this step ran.
  const bool usual = step.usual && !result->awaits_graph && !result->quality.has_value();
  if (usual) scheduler_.Learn(plan, stats_.step_seconds);
  queue_->rates()->OnStep(
      {stats_.step_seconds, stats_.num_decode_rows, stats_.num_prefill_tokens, num_ended_, step.saturated});
  num_ended_ = 0;
  ReportStep();
}

void EngineLoop::MarkScheduled(const StepPlan& plan, absl::Duration now) {
  // Decode rows have been scheduled before.
  for (size_t r = plan.num_decode_rows; r < plan.rows.size(); ++r) {
    ActiveRequest* const request = requests_.at(plan.rows[r].sequence->id).get();
    if (request->scheduled()) continue;
    request->OnScheduled(now);
    queue_->MarkRunning(request->key());
    if (!request->started()) MarkStarted(*request->sequence());
  }
}

void EngineLoop::MarkStarted(const Sequence& sequence) {
  for (int32_t index = 0; index < sequence.num_samples; ++index) {
    const auto found = requests_.find(sequence.first_sample_id + index);
    if (found == requests_.end()) continue;
    found->second->OnStarted();
    --num_unstarted_;
  }
}

void EngineLoop::JudgeRetrieval(const QualityReading& reading) {
  const auto found = requests_.find(reading.target.sequence_id);
  if (found == requests_.end()) return quality_policy_.OnLost();
  stats_.quality = quality_policy_.Judge(reading, found->second->sequence());
  found->second->OnQualitySample(*stats_.quality);
}

bool EngineLoop::DeliverPromptLogprobs(Sequence* sequence, TokenLogprob* scored, size_t count) {
  if (count == 0) return true;
  Delta delta;
  for (size_t i = 0; i < count; ++i) {
    if (scored[i].token_id == kNoToken) {
      scheduler_.ForgetPages(*sequence);
      failed_.emplace_back(sequence->first_sample_id, UnusableLogits());
      return false;
    }
    delta.prompt_logprobs.push_back(std::move(scored[i]));
  }
  sequence->num_scored += static_cast<int32_t>(count);
  requests_.at(sequence->id)->sink()->OnDelta(std::move(delta));
  return true;
}

void EngineLoop::CountDecodeRow(const PlanRow& row, ActiveRequest* request) {
  const int32_t context_len = row.begin + row.num_tokens;
  const int32_t num_select = row.retrieval.num_select;
  const KvTraffic traffic = policy_.Traffic(row.retrieval, context_len);
  request->OnDecodeRow(row.retrieval, context_len, traffic);
  stats_.context_tokens.push_back(context_len);
  stats_.kv_read_bytes += traffic.read_bytes;
  stats_.kv_dense_equivalent_bytes += traffic.dense_equivalent_bytes;
  if (num_select == 0) {
    stats_.dense_rows.push_back(row.retrieval.dense_reason);
  } else {
    stats_.sparse_rows.push_back({context_len, row.retrieval.NumCandidates(context_len), num_select});
  }
}

void EngineLoop::Deliver(const SampledToken& token, ActiveRequest* request, absl::Duration now) {
  const auto fail = [&](absl::Status status) {
    failed_.emplace_back(request->sequence()->first_sample_id, std::move(status));
  };
  if (token.token_id == kNoToken) return fail(UnusableLogits());

  const bool first = request->output()->num_tokens() == 0;
  const double since_last = request->OnToken(now);
  if (!first) stats_.inter_token_seconds.push_back(since_last);
  ++stats_.num_generated_tokens;
  absl::StatusOr<OutputProcessor::Output> output = request->output()->Process(token);
  if (!output.ok()) return fail(output.status());
  output->delta.index = request->index();
  request->sink()->OnDelta(std::move(output->delta));
  if (output->reason == FinishReason::kNone) return;

  scheduler_.Finish(request->sequence());
  Finish finish = request->MakeFinish(absl::OkStatus(), output->reason);
  // The others find the first one's prompt computed, and their answers are much as its own.
  if (request->index() == 0) {
    queue_->rates()->OnAnswered({finish.usage.prompt_tokens, finish.usage.cached_prompt_tokens,
                                 request->output()->num_tokens(), request->work().max_answer_tokens});
  }
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
  under_way_ = nullptr;  // nobody waits for it any more
  num_steps_ended_ = num_planned_;
  over_.clear();
}

void EngineLoop::End(ActiveRequest* request, Finish finish, int32_t wasted_tokens) {
  if (request->scheduled()) ++num_ended_;
  if (!request->started()) --num_unstarted_;
  const auto found = requests_.find(request->sequence()->id);
  std::unique_ptr<ActiveRequest> owned = std::move(found->second);
  ActiveRequest* const ended = owned.get();
  requests_.erase(found);
  if (num_planned_ > num_steps_ended_) over_.emplace_back(num_planned_, std::move(owned));
  if (ActiveRequest* const other = FindSample(*ended->sequence())) {
    other->OnSampleEnd(*ended, wasted_tokens);
    return ended->sink()->OnSampleFinish(std::move(finish));
  }
  sequence_ids_.erase(ended->key());
  deadlines_.erase({ended->deadline(), ended->sequence()->first_sample_id});
  // Pages and id are free before anyone hears of the end.
  queue_->Release(ended->key());
  PublishLoad();
  if (observer_ != nullptr) {
    RequestStats stats;
    stats.request_id = ended->key().request_id;
    stats.finish = finish;
    stats.finish.timings = ended->RequestTimings();
    stats.phase = ended->furthest_phase();
    stats.end_to_end_seconds = absl::ToDoubleSeconds(clock_->Now() - ended->accepted());
    stats.wasted_tokens = wasted_tokens + ended->wasted_tokens();
    observer_->OnRequestEnd(stats);
  }
  ended->sink()->OnFinish(std::move(finish));
  queue_->End();
}

void EngineLoop::Reject(const Submission& submission, absl::Status status, FinishReason reason) {
  queue_->Release(submission.request.key());
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
  load.num_waiting = scheduler_.num_waiting() - num_unstarted_;
  load.num_pages = scheduler_.pages().num_pages();
  load.num_free_pages = scheduler_.pages().num_free();
  load.healthy = fault_.ok();
  load.fault = std::string(fault_.message());
  queue_->rates()->OnLoad(load.num_running, scheduler_.prefill_tokens_left());
  MutexLock lock(&load_mutex_);
  load_ = load;
}

EngineLoad EngineLoop::load() const {
  const absl::Status progress = CheckProgress();
  MutexLock lock(&load_mutex_);
  EngineLoad load = load_;
  if (load.healthy && !progress.ok()) {
    load.healthy = false;
    load.fault = std::string(progress.message());
  }
  return load;
}

absl::Status EngineLoop::CheckProgress() const {
  return watch_.Look(clock_->Now());
}

void EngineLoop::ReportStep() {
  if (observer_ != nullptr) observer_->OnStep(stats_);
  stats_ = StepStats();
}

}  // namespace spotlight::engine
