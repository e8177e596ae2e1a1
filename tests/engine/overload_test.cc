// The engine under more load than it can serve, in simulated time: a step costs what its rows and tokens cost.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

struct Traffic {
  std::string caller;
  double requests_per_second = 0;
  absl::Duration timeout = absl::InfiniteDuration();
};

struct Outcome {
  int arrived = 0;
  int good = 0;  // ended in time
  int refused_at_door = 0;
  int refused_later = 0;        // from the queue, nothing done
  int wasted = 0;               // started, not finished
  std::vector<double> seconds;  // of the good ones
  double vain() const { return static_cast<double>(wasted) / std::max(1, good + wasted); }
  double p99() {
    std::sort(seconds.begin(), seconds.end());
    return seconds.empty() ? 0 : seconds[seconds.size() * 99 / 100];
  }
};

class OverloadTest : public EngineLoopTest {
 protected:
  static constexpr double kSeconds = 10;

  void SetUp() override {
    options_.scheduler.num_pages = 64;
    options_.scheduler.max_running = 8;
    options_.scheduler.max_step_tokens = 64;
    options_.queue.max_waiting_requests = 64;
    Start();
    runner_->OnRun([this](const Batch& batch) {
      const int32_t prefill = batch.num_tokens() - batch.num_decode_rows;
      clock_.Advance(absl::Microseconds(Slowness() * (2000 + 50 * prefill + 500 * batch.num_rows)));
    });
  }

  // Poisson arrivals of each kind of traffic; outcomes by caller.
  std::map<std::string, Outcome> Run(const std::vector<Traffic>& traffic) {
    std::map<std::string, Outcome> outcomes;
    const size_t num_ended_before = observer_.requests().size();
    callers_.clear();
    std::mt19937_64 random(11);
    const auto uniform = [&] { return (random() >> 11) * 0x1p-53; };
    const auto gap = [&](const Traffic& t) { return absl::Seconds(-std::log(1 - uniform()) / t.requests_per_second); };
    std::vector<absl::Duration> next;
    const absl::Duration start = clock_.Now();
    for (const Traffic& t : traffic) next.push_back(start + gap(t));
    std::vector<std::pair<std::string, std::shared_ptr<RecordingSink>>> sinks;
    while (clock_.Now() < start + absl::Seconds(kSeconds)) {
      for (size_t i = 0; i < traffic.size(); ++i) {
        for (; next[i] <= clock_.Now(); next[i] += gap(traffic[i])) {
          // Seen when the step under way is over, at the latest; its time counts from its arrival.
          Arrive(traffic[i], next[i], 20 + static_cast<int32_t>(random() % 41),
                 20 + static_cast<int32_t>(random() % 21), &outcomes[traffic[i].caller]);
        }
      }
      if (loop_->RunOnce()) continue;
      clock_.Advance(*std::min_element(next.begin(), next.end()) - clock_.Now() + absl::Nanoseconds(1));
    }
    RunUntilIdle();
    const std::vector<RequestStats> all_ended = observer_.requests();
    for (size_t i = num_ended_before; i < all_ended.size(); ++i) {
      const RequestStats& ended = all_ended[i];
      Outcome& outcome = outcomes[callers_.at(ended.request_id)];
      const bool ran = ended.finish.usage.completion_tokens > 0;
      if (ended.finish.status.ok()) {
        ++outcome.good;
        outcome.seconds.push_back(ended.end_to_end_seconds);
      } else {
        ++(ran ? outcome.wasted : outcome.refused_later);
      }
    }
    EXPECT_EQ(loop_->load().num_free_pages, 64);
    EXPECT_EQ(queue_->num_waiting(), 0);
    return outcomes;
  }

  // Steps vary each by itself, log-normally, and are slower in phases: 0.2 s, after 0.5 s without, both on average.
  double step_noise_ = 0;
  double slow_phase_ = 1;

 private:
  double Slowness() {
    if (clock_.Now() >= phase_end_) {
      is_slow_ = !is_slow_;
      phase_end_ = clock_.Now() + absl::Seconds(std::exponential_distribution<double>(is_slow_ ? 5 : 2)(noise_));
    }
    return (is_slow_ ? slow_phase_ : 1) * std::exp(step_noise_ * std::normal_distribution<double>()(noise_));
  }

  // What LocalEngine::Submit does.
  void Arrive(const Traffic& traffic, absl::Duration time, int32_t prompt_tokens, int32_t answer_tokens,
              Outcome* outcome) {
    ++outcome->arrived;
    const std::string id = std::to_string(callers_.size());
    GenerateRequest request = Request(id, answer_tokens);
    request.caller = traffic.caller;
    request.timeout = traffic.timeout;
    const RequestKey key = request.key();
    Reservation reservation(key);
    reservation.deadline = time + traffic.timeout;
    callers_[id] = traffic.caller;
    if (!queue_->Reserve(reservation).ok()) {
      ++outcome->refused_at_door;
      return;
    }
    const Work work = WorkOf(request, prompt_tokens, loop_->max_request_tokens());
    if (!queue_->CheckDeadline(key, work, clock_.Now()).ok() || !queue_->ReserveTokens(key, prompt_tokens).ok()) {
      ++outcome->refused_at_door;
      queue_->Release(key);
      queue_->End();
      return;
    }
    auto submission = std::make_unique<Submission>();
    submission->request = std::move(request);
    submission->prompt_token_ids = PromptIds(prompt_tokens, 1 + static_cast<int32_t>(callers_.size() % 400));
    submission->sink = std::make_shared<RecordingSink>();
    submission->accepted = time;
    queue_->Push(std::move(submission));
  }

  std::map<std::string, std::string> callers_;  // by request id
  std::mt19937_64 noise_{5};
  bool is_slow_ = true;
  absl::Duration phase_end_;
};

// About what 8 rows with 30 tokens each get done: a step of 6 ms and a third of a prompt in it.
constexpr double kCapacity = 8 / (30 * 0.0066);

class OverloadSweepTest : public OverloadTest {
 protected:
  Outcome RunAt(double load) {
    SetUp();
    std::vector<Traffic> traffic;
    for (const char* caller : {"a", "b", "c", "d"}) traffic.push_back({caller, load * kCapacity / 4, absl::Seconds(1)});
    Outcome sum;
    for (auto& [caller, outcome] : Run(traffic)) {
      sum.arrived += outcome.arrived;
      sum.good += outcome.good;
      sum.refused_at_door += outcome.refused_at_door;
      sum.refused_later += outcome.refused_later;
      sum.wasted += outcome.wasted;
      sum.seconds.insert(sum.seconds.end(), outcome.seconds.begin(), outcome.seconds.end());
    }
    return sum;
  }
};

TEST_F(OverloadSweepTest, GoodputAtFiveTimesCapacityStaysAtNineTenthsOfItsPeak) {
  double peak = 0;
  for (const double load : {0.5, 0.8, 1.0, 1.5, 2.0, 5.0}) {
    Outcome outcome = RunAt(load);
    const double goodput = outcome.good / kSeconds;
    peak = std::max(peak, goodput);
    std::printf(
        "load %.1f: %5.1f/s arrive, %5.1f/s good, p99 %.3f s, %4.1f%% refused at the door, %4.1f%% in the queue, "
        "of those started %4.1f%% in vain\n",
        load, outcome.arrived / kSeconds, goodput, outcome.p99(), 100.0 * outcome.refused_at_door / outcome.arrived,
        100.0 * outcome.refused_later / outcome.arrived, 100.0 * outcome.vain());
    EXPECT_LE(outcome.p99(), 1.01) << load;  // the deadline and a step
    EXPECT_LE(outcome.vain(), 0.005) << load;
    if (load <= 0.8) {
      EXPECT_GE(outcome.good, 0.97 * outcome.arrived) << load;
    }
    if (load < 5) continue;
    EXPECT_GE(goodput, 0.9 * peak);
    // Most hear of it before they wait.
    EXPECT_LE(outcome.refused_later, 0.1 * outcome.refused_at_door);
  }
}

TEST_F(OverloadSweepTest, OnANoisyMachineFewAreStartedInVainAndOthersUseTheirPlaces) {
  step_noise_ = 0.3;
  for (const double slow : {1.0, 1.5}) {
    slow_phase_ = slow;
    const double most = 8 / (30 * 0.0066 * (1 + (slow - 1) * 2 / 7));
    for (const double load : {0.8, 2.0, 5.0}) {
      const Outcome outcome = RunAt(load * most / kCapacity);
      std::printf("slow phases %.1f, load %.1f: %5.1f/s good, of those started %4.1f%% in vain\n", slow, load,
                  outcome.good / kSeconds, 100.0 * outcome.vain());
      EXPECT_LE(outcome.vain(), slow > 1 ? 0.04 : 0.02) << load;
      EXPECT_GE(outcome.good, 0.9 * std::min(1.0, load) * most * kSeconds) << load;
    }
  }
}

TEST_F(OverloadTest, AFloodByOneCallerLeavesAnotherItsShare) {
  std::map<std::string, Outcome> outcomes = Run({{"flood", 5 * kCapacity}, {"modest", 0.3 * kCapacity}});
  Outcome& modest = outcomes["modest"];
  Outcome& flood = outcomes["flood"];
  EXPECT_EQ(modest.good, modest.arrived);
  EXPECT_LE(modest.p99(), 1.0);
  EXPECT_GE(flood.good, 0.5 * kCapacity * kSeconds);
  EXPECT_GE(flood.refused_at_door, flood.good);
}

TEST_F(OverloadTest, TwoFloodsShareEvenly) {
  std::map<std::string, Outcome> outcomes = Run({{"a", 5 * kCapacity}, {"b", 2 * kCapacity}});
  EXPECT_NEAR(outcomes["a"].good, outcomes["b"].good, 0.05 * outcomes["a"].good);
}

}  // namespace
}  // namespace spotlight::engine
