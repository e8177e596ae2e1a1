#include "engine/admission/service_rates.h"

#include <algorithm>

namespace spotlight::engine {
namespace {

constexpr int32_t kMinSteps = 8;  // the first ones allocate, and tell little
constexpr double kWeightOfRise = 0.1;
constexpr double kWeightOfFall = 0.3;
// A step counts as full of prompt tokens from here on.
constexpr double kFullChunk = 0.9;
// Requests that run together may end together: a rate needs several batches of them.
constexpr size_t kMinEnds = 4;
constexpr int32_t kBatchesOfEnds = 4;
constexpr size_t kAnswersKept = 64;
constexpr size_t kMinAnswers = 16;

// The value that nine in ten exceed or equal.
double TenthPercentile(std::vector<double> values) {
  const auto tenth = values.begin() + static_cast<int64_t>(values.size() / 10);
  std::nth_element(values.begin(), tenth, values.end());
  return *tenth;
}

}  // namespace

void ServiceRates::StepTime::Add(double value) {
  if (num_samples++ == 0) {
    seconds = value;
    return;
  }
  const double bounded = std::min(value, 2 * seconds);
  seconds += (bounded > seconds ? kWeightOfRise : kWeightOfFall) * (bounded - seconds);
}

double ServiceRates::StepTime::measured() const {
  return num_samples >= kMinSteps ? seconds : 0;
}

void ServiceRates::SetBounds(int32_t max_running, int32_t max_step_tokens) {
  MutexLock lock(&mutex_);
  rates_.max_running = max_running;
  rates_.max_step_tokens = max_step_tokens;
}

void ServiceRates::OnStep(const MeasuredStep& step) {
  MutexLock lock(&mutex_);
  if (step.num_decode_rows > 0) {
    decode_.Add(step.seconds);
    const double fastest = rates_.fastest_step_seconds;
    rates_.fastest_step_seconds = fastest == 0 ? step.seconds : std::min(fastest, step.seconds);
  }
  if (step.num_prefill_tokens > 0 &&
      step.num_prefill_tokens >= kFullChunk * (rates_.max_step_tokens - step.num_decode_rows)) {
    chunk_.Add(step.seconds);
  }
  rates_.step_seconds = decode_.measured();
  rates_.chunk_seconds = chunk_.measured();

  if (!step.saturated) return;
  saturated_seconds_ += step.seconds;
  for (int32_t i = 0; i < step.num_ended; ++i) ends_.push_back(saturated_seconds_);
  const auto max_ends = static_cast<size_t>(std::max(64, kBatchesOfEnds * rates_.max_running));
  while (ends_.size() > max_ends) ends_.pop_front();
  // The first end only begins the interval.
  const double seconds = ends_.empty() ? 0 : saturated_seconds_ - ends_.front();
  rates_.ends_per_second = ends_.size() >= kMinEnds && seconds > 0 ? (ends_.size() - 1) / seconds : 0;
}

void ServiceRates::OnLoad(int32_t num_running, int64_t prefill_tokens_left) {
  MutexLock lock(&mutex_);
  rates_.num_running = num_running;
  rates_.prefill_tokens_left = prefill_tokens_left;
}

void ServiceRates::OnAnswered(const EndedRequest& request) {
  MutexLock lock(&mutex_);
  answered_.push_back(request);
  if (answered_.size() > kAnswersKept) answered_.pop_front();
  if (answered_.size() < kMinAnswers) return;
  std::vector<double> tokens, ratios, computed;
  for (const EndedRequest& ended : answered_) {
    tokens.push_back(ended.answer_tokens);
    ratios.push_back(static_cast<double>(ended.answer_tokens) / std::max(1, ended.max_answer_tokens));
    computed.push_back(1 - static_cast<double>(ended.cached_prompt_tokens) / std::max(1, ended.prompt_tokens));
  }
  rates_.answer_tokens = TenthPercentile(std::move(tokens));
  rates_.answer_ratio = TenthPercentile(std::move(ratios));
  rates_.computed_ratio = TenthPercentile(std::move(computed));
}

Rates ServiceRates::Read() const {
  MutexLock lock(&mutex_);
  return rates_;
}

}  // namespace spotlight::engine
