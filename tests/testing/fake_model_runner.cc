#include "tests/testing/fake_model_runner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr int32_t kP = kernels::kPageTokens;

uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

absl::Status Malformed(const char* what, int32_t row) {
  return absl::InternalError(absl::StrCat("malformed batch: ", what, ", row ", row));
}

}  // namespace

FakeModelRunner::FakeModelRunner(int32_t num_pages, int32_t vocab_size)
    : num_pages_(num_pages),
      vocab_size_(vocab_size),
      cache_(static_cast<size_t>(num_pages) * kP, -1),
      logits_(vocab_size) {}

void FakeModelRunner::Script(int32_t first_prompt_token, std::vector<int32_t> tokens) {
  MutexLock lock(&mutex_);
  scripts_[first_prompt_token] = std::move(tokens);
}

void FakeModelRunner::ScriptNan(int32_t first_prompt_token, int32_t output_index) {
  MutexLock lock(&mutex_);
  nan_from_[first_prompt_token] = output_index;
}

void FakeModelRunner::ScriptAttentionMass(int32_t first_prompt_token, std::vector<float> masses) {
  MutexLock lock(&mutex_);
  masses_[first_prompt_token] = std::move(masses);
}

void FakeModelRunner::Fail(absl::Status status) {
  MutexLock lock(&mutex_);
  failure_ = std::move(status);
}

void FakeModelRunner::OnRun(std::function<void(const Batch&)> callback) {
  MutexLock lock(&mutex_);
  on_run_ = std::move(callback);
}

void FakeModelRunner::OnWait(std::function<void()> callback) {
  MutexLock lock(&mutex_);
  on_wait_ = std::move(callback);
}

void FakeModelRunner::Pause() {
  MutexLock lock(&mutex_);
  paused_ = true;
}

void FakeModelRunner::Resume() {
  MutexLock lock(&mutex_);
  paused_ = false;
  resumed_.NotifyAll();
}

int64_t FakeModelRunner::num_runs() const {
  MutexLock lock(&mutex_);
  return num_runs_;
}

int32_t FakeModelRunner::max_step_tokens() const {
  MutexLock lock(&mutex_);
  return max_step_tokens_;
}

int32_t FakeModelRunner::max_rows() const {
  MutexLock lock(&mutex_);
  return max_rows_;
}

int32_t FakeModelRunner::max_in_flight() const {
  MutexLock lock(&mutex_);
  return max_in_flight_;
}

void FakeModelRunner::SetMaxInFlight(int32_t steps) {
  MutexLock lock(&mutex_);
  max_in_flight_ = steps;
}

void FakeModelRunner::PrepareBatchesOf(int32_t num_decode_rows, absl::Status capture) {
  MutexLock lock(&mutex_);
  rows_to_prepare_ = num_decode_rows;
  capture_ = std::move(capture);
}

void FakeModelRunner::AwaitGraphs(std::function<bool(const Batch&)> awaits) {
  MutexLock lock(&mutex_);
  awaits_graph_ = std::move(awaits);
}

bool FakeModelRunner::PreparesFor(const Batch& batch) const {
  MutexLock lock(&mutex_);
  return rows_to_prepare_ > 0 && batch.num_decode_rows == rows_to_prepare_ && batch.num_rows == rows_to_prepare_;
}

Batch FakeModelRunner::Fed(const Batch& batch) const {
  Batch fed = batch;
  for (int32_t& id : fed.token_ids) {
    if (id < 0) id = std::max(tokens_before_.at(~id).token_id, 0);
  }
  return fed;
}

absl::StatusOr<StepResult> FakeModelRunner::Wait() {
  if (results_.empty()) return absl::InternalError("no step is under way");
  std::function<void()> on_wait;
  {
    MutexLock lock(&mutex_);
    on_wait = on_wait_;
  }
  if (on_wait) on_wait();
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

absl::Status FakeModelRunner::Launch(const Batch& unfed) {
  const Batch batch = Fed(unfed);
  std::function<void(const Batch&)> on_run;
  StepResult result;
  {
    MutexLock lock(&mutex_);
    while (paused_) resumed_.Wait(&mutex_);
    if (!failure_.ok()) return failure_;
    if (static_cast<int32_t>(results_.size()) >= max_in_flight_) return absl::InternalError("too many steps under way");
    absl::Status status = Check(batch);
    if (!status.ok()) return status;
    ++num_runs_;
    max_step_tokens_ = std::max(max_step_tokens_, batch.num_tokens());
    max_rows_ = std::max(max_rows_, batch.num_rows);
    Append(batch);
    for (const SampleRow& sample : batch.samples) {
      const auto end = std::upper_bound(batch.query_begin.begin(), batch.query_begin.end(), sample.token_index);
      const int32_t row = static_cast<int32_t>(end - batch.query_begin.begin()) - 1;
      FillLogits(batch, row, batch.context_len[row], sample.output_index);
      SampleRow known = sample;
      std::vector<int32_t> output;
      if (sample.fed_sample >= 0 && sample.output_token_ids != nullptr) {
        output = *sample.output_token_ids;
        output.push_back(std::max(tokens_before_.at(sample.fed_sample).token_id, 0));
        known.output_token_ids = &output;
      }
      result.tokens.push_back(sampler_.Sample(logits_.data(), vocab_size_, known));
    }
    for (const ScoredToken& token : batch.scored) {
      const auto end = std::upper_bound(batch.query_begin.begin(), batch.query_begin.end(), token.token_index);
      const int32_t row = static_cast<int32_t>(end - batch.query_begin.begin()) - 1;
      FillLogits(batch, row, batch.positions[token.token_index] + 1, -1);
      result.scored.push_back(sampler_.Score(logits_.data(), vocab_size_, token));
    }
    if (max_in_flight_ > 1) result.quality = std::exchange(quality_, absl::nullopt);
    if (batch.quality.has_value()) (max_in_flight_ > 1 ? quality_ : result.quality) = Measure(batch);
    if (batch.num_decode_rows == rows_to_prepare_ && batch.num_rows == rows_to_prepare_) {
      rows_to_prepare_ = 0;
      result.graph_capture = capture_;
    }
    if (awaits_graph_) result.awaits_graph = awaits_graph_(batch);
    if (batch.time_retrieval) result.retrieval = RetrievalSeconds{1e-5, 2e-5, 3e-5, 4e-5, 1e-4};
    on_run = on_run_;
  }
  tokens_before_ = result.tokens;
  results_.push_back(std::move(result));
  if (on_run) on_run(batch);
  return absl::OkStatus();
}

absl::Status FakeModelRunner::Check(const Batch& batch) const {
  const auto num_rows = static_cast<size_t>(batch.num_rows);
  if (batch.num_dense_rows > batch.num_decode_rows || batch.num_decode_rows > batch.num_rows) {
    return absl::InternalError("malformed batch: row counts");
  }
  if (batch.query_begin.size() != num_rows + 1 || batch.context_len.size() != num_rows ||
      batch.num_select.size() != num_rows || batch.page_table.size() != num_rows * batch.max_pages ||
      batch.positions.size() != batch.token_ids.size() || batch.slots.size() != batch.token_ids.size() ||
      batch.query_begin.back() != batch.num_tokens()) {
    return absl::InternalError("malformed batch: array sizes");
  }
  for (int32_t r = 0; r < batch.num_rows; ++r) {
    const int32_t begin = batch.query_begin[r], end = batch.query_begin[r + 1];
    if (end <= begin || (r < batch.num_decode_rows && end - begin != 1)) return Malformed("token count", r);
    const bool sparse = r >= batch.num_dense_rows && r < batch.num_decode_rows;
    if (sparse != (batch.num_select[r] > 0)) return Malformed("num_select", r);
    for (int32_t t = begin; t < end; ++t) {
      const int32_t position = batch.context_len[r] - (end - t);
      if (batch.positions[t] != position || position < 0) return Malformed("positions", r);
      const int32_t page = batch.page_table[r * batch.max_pages + position / kP];
      if (page < 0 || page >= num_pages_ || batch.slots[t] != int64_t{page} * kP + position % kP) {
        return Malformed("slots", r);
      }
    }
  }
  if (batch.quality.has_value()) {
    const int32_t row = batch.quality->row;
    if (row < batch.num_dense_rows || row >= batch.num_decode_rows) return Malformed("quality", row);
  }
  return absl::OkStatus();
}

QualityReading FakeModelRunner::Measure(const Batch& batch) {
  QualityReading reading{*batch.quality, {0.5f, 0.25f, 1.0f, 0.125f}};
  const auto script = masses_.find(CachedToken(batch, batch.quality->row, 0));
  if (script == masses_.end()) return reading;
  std::vector<float>& masses = script->second;
  reading.measured.attention_mass = masses.front();
  if (masses.size() > 1) masses.erase(masses.begin());
  return reading;
}

void FakeModelRunner::Append(const Batch& batch) {
  for (int32_t t = 0; t < batch.num_tokens(); ++t) cache_[batch.slots[t]] = batch.token_ids[t];
}

int32_t FakeModelRunner::CachedToken(const Batch& batch, int32_t row, int32_t position) const {
  const int32_t page = batch.page_table[row * batch.max_pages + position / kP];
  return cache_[int64_t{page} * kP + position % kP];
}

void FakeModelRunner::FillLogits(const Batch& batch, int32_t row, int32_t context_len, int32_t output_index) {
  const int32_t first = CachedToken(batch, row, 0);
  const auto nan = nan_from_.find(first);
  if (nan != nan_from_.end() && output_index >= nan->second) {
    std::fill(logits_.begin(), logits_.end(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  uint64_t hash = 0;
  for (int32_t position = 0; position < context_len; ++position) {
    hash = Mix(hash ^ static_cast<uint64_t>(CachedToken(batch, row, position)));
  }
  for (int32_t id = 0; id < vocab_size_; ++id) {
    logits_[id] = static_cast<float>(Mix(hash + id) >> 40) * 0x1p-22f;  // [0, 4)
  }
  const auto script = scripts_.find(first);
  if (script != scripts_.end() && output_index >= 0) {
    const size_t last = script->second.size() - 1;
    logits_[script->second[std::min<size_t>(output_index, last)]] = 8.0f;
  }
}

}  // namespace spotlight::engine
