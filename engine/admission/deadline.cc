#include "engine/admission/deadline.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"

namespace spotlight::engine {
namespace {

double PrefillSeconds(const Rates& rates, double num_tokens, double step, double chunk) {
  const double full = std::floor(num_tokens / rates.max_step_tokens);
  const double rest = num_tokens - full * rates.max_step_tokens;
  const double full_seconds = std::max(step, chunk);
  return full * full_seconds + (rest > 0 ? step + (full_seconds - step) * rest / rates.max_step_tokens : 0);
}

double Seconds(const Rates& rates, const Work& work, double step, double chunk) {
  const double usual = std::min(rates.answer_tokens, rates.answer_ratio * work.max_answer_tokens);
  const double answer_tokens = std::max<double>({1, static_cast<double>(work.min_answer_tokens), usual});
  const double in_turn = std::max(1.0, static_cast<double>(work.num_samples) / rates.max_running);
  return PrefillSeconds(rates, rates.computed_ratio * static_cast<double>(work.prompt_tokens), step, chunk) +
         (answer_tokens * in_turn - 1) * step;
}

std::string Text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s", seconds);
  return text;
}

absl::Status Hopeless(double needed, double left) {
  return absl::DeadlineExceededError(
      absl::StrCat("deadline: in ", Text(left), ", and the request takes about ", Text(needed), " on an idle server"));
}

absl::Status Passed(double left) {
  return absl::DeadlineExceededError(absl::StrCat("deadline: passed ", Text(-left), " ago"));
}

}  // namespace

double OwnSeconds(const Rates& rates, const Work& work) {
  return Seconds(rates, work, rates.step_seconds, rates.chunk_seconds);
}

double AloneSeconds(const Rates& rates, const Work& work) {
  if (rates.step_seconds == 0) return 0;
  return Seconds(rates, work, rates.fastest_step_seconds, rates.fastest_step_seconds);
}

double AheadSeconds(const Rates& rates, const WaitingAhead& ahead) {
  const auto num_tokens = static_cast<double>(rates.prefill_tokens_left + ahead.num_tokens);
  const double prefill =
      PrefillSeconds(rates, rates.computed_ratio * num_tokens, rates.step_seconds, rates.chunk_seconds);
  const int32_t num_ends = ahead.num_samples + 1 - (rates.max_running - rates.num_running);
  const double places = num_ends > 0 && rates.ends_per_second > 0 ? num_ends / rates.ends_per_second : 0;
  return std::max(prefill, places);
}

absl::Status CheckDeadline(const Rates& rates, const Work& work, const WaitingAhead& ahead, absl::Duration left) {
  if (left == absl::InfiniteDuration()) return absl::OkStatus();
  const double left_seconds = absl::ToDoubleSeconds(left);
  if (left_seconds <= 0) return Passed(left_seconds);
  if (rates.num_running == 0 && ahead.num_samples == 0) return absl::OkStatus();
  if (const double alone = AloneSeconds(rates, work); alone > left_seconds) return Hopeless(alone, left_seconds);
  const double ahead_seconds = kAheadMargin * AheadSeconds(rates, ahead);
  const double own_seconds = kOwnMargin * OwnSeconds(rates, work);
  const double missing = ahead_seconds + own_seconds - left_seconds;
  if (missing <= 0) return absl::OkStatus();
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "deadline: in ", Text(left_seconds), ", and the request takes about ", Text(own_seconds),
                            " at the present load, after about ", Text(ahead_seconds), " in the queue")),
                        absl::Seconds(missing));
}

absl::Status CheckStart(const Rates& rates, const Work& work, absl::Duration waited, absl::Duration left) {
  if (left == absl::InfiniteDuration()) return absl::OkStatus();
  const double left_seconds = absl::ToDoubleSeconds(left);
  if (left_seconds <= 0) return Passed(left_seconds);
  if (rates.num_running == 0) return absl::OkStatus();
  const double own_seconds = kOwnMargin * OwnSeconds(rates, work);
  if (own_seconds <= left_seconds) return absl::OkStatus();
  const double alone = AloneSeconds(rates, work);
  if (alone > absl::ToDoubleSeconds(waited + left)) return Hopeless(alone, left_seconds);
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "deadline: in ", Text(left_seconds), " after ", Text(absl::ToDoubleSeconds(waited)),
                            " in the queue, and the request takes about ", Text(own_seconds), " at the present load")),
                        waited);
}

}  // namespace spotlight::engine
