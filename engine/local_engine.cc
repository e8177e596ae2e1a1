#include "engine/local_engine.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/validate_request.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

// In the order of their first places; all in [0, vocab_size).
std::vector<int32_t> DistinctIds(const std::vector<int32_t>& ids, int32_t vocab_size) {
  std::vector<bool> seen(vocab_size);
  std::vector<int32_t> distinct;
  for (const int32_t id : ids) {
    if (seen[id]) continue;
    seen[id] = true;
    distinct.push_back(id);
  }
  return distinct;
}

// An echo waits with its request, and of a prompt that came as ids nothing else bounds it: an id of one byte may stand
// for more than a hundred, though ids of a text stand for four or five each.
absl::Status CheckEcho(const std::string& text, size_t num_tokens) {
  constexpr size_t kMaxBytesPerToken = 16, kAlwaysTakenBytes = 64 << 10;
  const size_t max_bytes = std::max(kAlwaysTakenBytes, kMaxBytesPerToken * num_tokens);
  if (text.size() <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("echo: ", num_tokens, " tokens stand for ", text.size(),
                                                 " bytes of text, over the ", max_bytes,
                                                 " that are given back of ids"));
}

// What the cancelled requests get to end, which they do with the step under way. Steps are shorter; one that hangs must
// not keep a server from its end.
constexpr absl::Duration kCancelTime = absl::Seconds(5);

}  // namespace

LocalEngine::LocalEngine(EngineOptions options, ModelInfo model, RetrievalPolicy policy,
                         const QualityPolicy& quality_policy, std::unique_ptr<Tokenizer> tokenizer,
                         std::unique_ptr<ChatTemplate> chat_template, std::unique_ptr<ModelRunner> runner,
                         StatsObserver* observer, const Clock* clock, std::unique_ptr<StepProfiler> profiler,
                         std::unique_ptr<EngineThread> thread)
    : options_(std::move(options)),
      model_(std::move(model)),
      policy_(std::move(policy)),
      clock_(clock),
      profiler_(std::move(profiler)),
      tokenizer_(std::move(tokenizer)),
      chat_template_(std::move(chat_template)),
      runner_(std::move(runner)),
      queue_(options_.queue),
      loop_(options_, model_, policy_, quality_policy, tokenizer_.get(), runner_.get(), &queue_, observer, clock),
      encoder_(tokenizer_.get(), chat_template_.get(), loop_.max_request_tokens()),
      seed_source_((uint64_t{std::random_device()()} << 32) | std::random_device()()),
      thread_(std::move(thread)) {
  thread_->Start([this] { RunLoop(); });
  if (profiler_ != nullptr) profiler_->SetWake([this] { queue_.Wake(); });
}

LocalEngine::~LocalEngine() {
  queue_.Close(absl::UnavailableError("the server is shutting down"));
  queue_.CancelAll(CancelReason::kShutdown, clock_->Now());
  encoder_.Stop();  // whatever it still held is in the queue now
  stopping_ = true;
  queue_.Wake();
  thread_.reset();
}

absl::Status LocalEngine::Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) {
  absl::Status status = ValidateRequest(request, model_);
  if (status.ok()) status = policy_.Check(request.retrieval);
  if (status.ok() && tokenizer_ == nullptr && !request.stopping.stop.empty()) {
    status = absl::FailedPreconditionError("stopping.stop: the model has no tokenizer, no text can match");
  }
  if (status.ok()) status = loop_.CheckProgress();
  if (!status.ok()) return status;
  const absl::Duration now = clock_->Now();
  Reservation reservation(request.key());
  reservation.priority = request.priority;
  reservation.num_samples = request.sampling.n;
  reservation.deadline = now + request.timeout;
  reservation.sink = sink.get();
  status = queue_.Reserve(reservation);
  if (!status.ok()) return status;

  auto submission = std::make_unique<Submission>();
  submission->accepted = now;
  submission->sink = std::move(sink);
  request.sampling = ResolveSampling(request.sampling, model_.default_sampling);
  if (!request.sampling.seed.has_value()) request.sampling.seed = DrawSeed();
  submission->request = std::move(request);

  if (PromptEncoder::IsLong(submission->request.prompt)) {
    // It waits for a thread of the encoder: what can never fit is not kept that long.
    status = encoder_.CheckSize(submission->request.prompt);
    if (!status.ok()) return Refuse(*submission, std::move(status));
    // Nor what is plainly too late.
    const int64_t min_tokens = std::min<int64_t>(encoder_.MinTokens(submission->request.prompt),
                                                 submission->request.truncate_prompt_tokens.value_or(INT32_MAX));
    Work work = WorkOf(submission->request, min_tokens, loop_.max_request_tokens());
    work.min_answer_tokens = 1;  // what the context leaves to the answer is not known yet
    status = queue_.CheckDeadline(submission->request.key(), work, now);
    if (!status.ok()) return Refuse(*submission, std::move(status));
    // Owned by the task, which always runs once it is scheduled; std::function cannot hold a unique_ptr.
    Submission* const owned = submission.get();
    const auto encode = [this, owned] {
      std::unique_ptr<Submission> submission(owned);
      submission->status = Encode(submission.get());
      queue_.Push(std::move(submission));
    };
    const GenerateRequest& kept = owned->request;
    status = encoder_.Schedule(kept.key(), kept.prompt, encode);
    if (!status.ok()) return Refuse(*submission, std::move(status));
    submission.release();
    return absl::OkStatus();
  }
  status = Encode(submission.get());
  if (!status.ok()) return Refuse(*submission, std::move(status));
  queue_.Push(std::move(submission));
  return absl::OkStatus();
}

absl::Status LocalEngine::Refuse(const Submission& submission, absl::Status status) {
  queue_.Release(submission.request.key());
  queue_.End();
  return status;
}

absl::Status LocalEngine::Encode(Submission* submission) {
  GenerateRequest& request = submission->request;
  if (queue_.IsCancelled(request.key())) return absl::CancelledError("cancelled before it was encoded");
  absl::StatusOr<std::vector<int32_t>> ids;
  if (auto* tokens = std::get_if<TokenPrompt>(&request.prompt)) {
    ids = std::move(tokens->token_ids);
  } else {
    ids = encoder_.Encode(request.prompt);
  }
  if (!ids.ok()) return ids.status();
  if (request.truncate_prompt_tokens.has_value() &&
      static_cast<int64_t>(ids->size()) > *request.truncate_prompt_tokens) {
    ids->erase(ids->begin(), ids->end() - *request.truncate_prompt_tokens);
  }
  const int64_t cache_tokens = int64_t{options_.scheduler.num_pages} * kernels::kPageTokens;
  absl::Status status = ValidateEncodedPrompt(request.prompt, *ids, model_, cache_tokens);
  if (status.ok()) {
    const Work work = WorkOf(request, static_cast<int64_t>(ids->size()), loop_.max_request_tokens());
    status = queue_.CheckDeadline(request.key(), work, clock_->Now());
  }
  if (status.ok()) status = queue_.ReserveTokens(request.key(), static_cast<int64_t>(ids->size()));
  if (!status.ok()) return status;
  // Here rather than on the engine's thread, which has no time for a pass over a long prompt.
  if (*request.sampling.repetition_penalty != 1.0f) {
    submission->distinct_prompt_token_ids = DistinctIds(*ids, model_.vocab_size);
  }
  if (options_.scheduler.prefix_cache && !request.bypass_prefix_cache) {
    submission->page_hashes = PageHashes(request.cache_salt, *ids);
  }
  if (request.echo && tokenizer_ != nullptr) {
    absl::StatusOr<std::string> text = tokenizer_->Decode(*ids, /*skip_special_tokens=*/false);
    if (!text.ok()) return text.status();
    if (std::holds_alternative<TokenPrompt>(request.prompt)) status = CheckEcho(*text, ids->size());
    if (!status.ok()) return status;
    submission->prompt_text = *std::move(text);
  }
  submission->prompt_token_ids = *std::move(ids);
  request.prompt = Prompt();
  return absl::OkStatus();
}

uint64_t LocalEngine::DrawSeed() {
  MutexLock lock(&seed_mutex_);
  return seed_source_();
}

absl::Status LocalEngine::Cancel(const std::string& request_id, CancelReason reason, const CancelScope& scope) {
  const auto cancelled = queue_.Cancel(request_id, reason, clock_->Now(), scope);
  if (!cancelled.ok()) return cancelled.status();
  // They need not wait for a thread of the encoder: a task finds its request cancelled and passes it on to be ended.
  // (Should it have ended meanwhile, and its id be the caller's next, then that prompt is encoded here, as good.)
  for (const RequestKey& key : *cancelled) {
    if (const std::function<void()> task = encoder_.Withdraw(key)) task();
  }
  return absl::OkStatus();
}

void LocalEngine::Drain(absl::Duration grace) {
  draining_ = true;
  queue_.Close(absl::UnavailableError("the server is draining and takes no new requests"));
  if (queue_.WaitUntilIdle(grace)) return;
  queue_.CancelAll(CancelReason::kShutdown, clock_->Now());
  queue_.WaitUntilIdle(kCancelTime);
}

absl::StatusOr<std::vector<int32_t>> LocalEngine::Tokenize(const Prompt& prompt) const {
  absl::Status status = ValidatePrompt(prompt, model_);
  if (!status.ok()) return status;
  return encoder_.Encode(prompt);
}

absl::StatusOr<std::string> LocalEngine::Detokenize(const std::vector<int32_t>& token_ids) const {
  for (size_t i = 0; i < token_ids.size(); ++i) {
    if (token_ids[i] >= 0 && token_ids[i] < model_.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token_ids[", i, "]: must be in [0, ", model_.vocab_size, "), got ", token_ids[i]));
  }
  if (tokenizer_ == nullptr) return absl::FailedPreconditionError("the model has no tokenizer");
  return tokenizer_->Decode(token_ids, /*skip_special_tokens=*/false);
}

EngineLoad LocalEngine::Load() const {
  EngineLoad load = loop_.load();
  load.num_waiting += queue_.num_waiting();
  load.num_waiting_tokens = queue_.num_waiting_tokens();
  load.draining = draining_;
  return load;
}

void LocalEngine::RunLoop() {
  while (true) {
    const bool stopping = stopping_;  // read first: what came before it was set is still served
    while (RunOnce()) {
    }
    if (stopping) break;
    queue_.WaitForArrivals();
  }
  if (profiler_ != nullptr) profiler_->OnEngineStop();
}

bool LocalEngine::RunOnce() {
  if (profiler_ == nullptr) return loop_.RunOnce();
  profiler_->BeforePass();
  const bool ran = loop_.RunOnce();
  profiler_->AfterPass(ran);
  return ran;
}

}  // namespace spotlight::engine
