// Whether a request can end by its deadline, by measured rates. The estimate, in the terms of service_rates.h:
//
//   prefill(p, t)  = floor(p / C) chunk + (r > 0 ? t + (chunk - t) r / C : 0)     r = p mod C, C = max_step_tokens
//   own            = prefill(computed_ratio P, step) + (O max(1, S / places) - 1) step
//   ahead          = max(prefill(computed_ratio Q, step), (n + 1 - free places) / ends_per_second)
//   estimate       = kAheadMargin ahead + kOwnMargin own
//   alone          = own with the fastest step ever measured in place of step and chunk
//
// P: prompt tokens, O: output tokens of each of S samples, which run side by side as far as there are places
// (max_running). Q: prompt tokens to be computed before the request's own, of running and of waiting requests; n:
// samples of waiting requests ahead. O is what the request cannot do without (max_tokens where nothing else may end it,
// else min_tokens, at least 1), and no less than what nine in ten answers take: min(answer_tokens, answer_ratio
// max_tokens). A factor that is not measured yet counts as 0, so nothing is refused before there are rates; nor is
// anything by an estimate while the engine is idle, so that rates that were wrong are measured anew.
//
// Refusals begin with "deadline: ". DEADLINE_EXCEEDED: it passed, or an idle server could not meet it either; trying
// again with the same deadline is no use. RESOURCE_EXHAUSTED: for the load; with the time after which the queue has
// drained far enough (retry_delay.h).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/admission/service_rates.h"

namespace spotlight::engine {

struct Work {
  int64_t prompt_tokens = 0;
  int32_t min_answer_tokens = 1;  // no answer is shorter
  int32_t max_answer_tokens = 1;
  int32_t num_samples = 1;  // each with such an answer, all with one prompt
};

// What is served before a request that waits.
struct WaitingAhead {
  int32_t num_samples = 0;
  int64_t num_tokens = 0;  // of their requests' prompts
};

// Steps get slower after a start as well as faster, and what starts and misses its deadline costs its place. Under five
// times a server's load nearly every request starts with as much time left as it needs and no more: with a margin fewer
// start in vain and more end in time, on a steady machine and on a noisy one (tests/engine/overload_test.cc).
inline constexpr double kOwnMargin = 1.15;
// At the door alone: what has waited is judged by what is left to it. A request that is refused at once can go
// elsewhere; one that is refused after it waited, or starts with no time to spare, has lost it.
inline constexpr double kAheadMargin = 1.25;

double OwnSeconds(const Rates& rates, const Work& work);
double AloneSeconds(const Rates& rates, const Work& work);
double AheadSeconds(const Rates& rates, const WaitingAhead& ahead);

// At the door. `left` until the deadline; infinite: no deadline.
absl::Status CheckDeadline(const Rates& rates, const Work& work, const WaitingAhead& ahead, absl::Duration left);

// Of a request that waited and may start now.
absl::Status CheckStart(const Rates& rates, const Work& work, absl::Duration waited, absl::Duration left);

}  // namespace spotlight::engine
