// A soak is worth what its verdict notices.
#include "tests/soak/verdict.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::soak {
namespace {

using std::chrono::milliseconds;

StreamEnd Finished(Behaviour behaviour = Behaviour::kPatient) {
  StreamEnd end;
  end.request_id = "r";
  end.behaviour = behaviour;
  end.num_dones = 1;
  end.max_tokens = end.tokens = end.usage_tokens = 7;
  end.finals = 1;
  end.samples.resize(1);
  end.samples[0].finals = 1;
  end.samples[0].finish_reason = v1::FINISH_REASON_LENGTH;
  return end;
}

StreamEnd Failed(Behaviour behaviour, grpc::StatusCode code, int tokens = 3) {
  StreamEnd end = Finished(behaviour);
  end.samples[0] = SampleEnd();
  end.finals = 0;
  end.tokens = tokens;
  end.status = grpc::Status(code, "why");
  return end;
}

bool Passes(const StreamEnd& end, const LoggedEnd& logged) {
  return CheckEnds({end}, {{"r", logged}}).empty();
}

TEST(VerdictTest, ARequestEndsOnceWithAllItsTokens) {
  EXPECT_TRUE(Passes(Finished(), {1, "OK", 7}));
  EXPECT_FALSE(Passes(Finished(), {2, "OK", 7}));
  EXPECT_FALSE(Passes(Finished(), {1, "CANCELLED", 7}));
  EXPECT_FALSE(Passes(Finished(), {1, "OK", 6}));
  EXPECT_FALSE(CheckEnds({Finished()}, {}).empty());
  StreamEnd twice = Finished(), short_of_one = Finished(), unfinished = Finished(), late = Finished();
  twice.num_dones = 2;
  short_of_one.tokens = 6;
  unfinished.samples[0].finals = 0;
  late.after_final = 1;
  StreamEnd twice_finished = Finished(), stopped = Finished(), stray = Finished();
  twice_finished.samples[0].finals = 2;
  stopped.samples[0].finish_reason = v1::FINISH_REASON_STOP;
  stray.strays = 1;
  for (const StreamEnd& end : {twice, short_of_one, unfinished, late, twice_finished, stopped, stray}) {
    EXPECT_FALSE(Passes(end, {1, "OK", 7}));
  }
}

TEST(VerdictTest, EverySampleEndsOnce) {
  StreamEnd end = Finished();
  end.samples.push_back(end.samples[0]);
  EXPECT_TRUE(Passes(end, {1, "OK", 7}));
  end.samples[0].finals = 2;
  end.samples[1].finals = 0;
  EXPECT_FALSE(Passes(end, {1, "OK", 7}));
  end.samples[0] = end.samples[1] = Finished().samples[0];
  end.samples[0].finish_reason = v1::FINISH_REASON_ABORTED;
  EXPECT_FALSE(Passes(end, {1, "OK", 7}));
}

TEST(VerdictTest, LogProbabilitiesComeWithEveryTokenWhereAskedFor) {
  StreamEnd end = Finished();
  end.logprobs = true;
  EXPECT_FALSE(Passes(end, {1, "OK", 7}));
  end.token_logprobs = 7;
  EXPECT_TRUE(Passes(end, {1, "OK", 7}));
  end.logprobs = false;
  EXPECT_FALSE(Passes(end, {1, "OK", 7}));
}

TEST(VerdictTest, AStoppedRequestHasTheTokensThatItSays) {
  StreamEnd end = Finished(Behaviour::kStops);
  end.stopping.set_max_tokens(7);
  end.stopping.add_stop_token_ids(5);
  end.samples[0] = {1, v1::FINISH_REASON_STOP, {1, 2, 5}, "\"#", "", 5};
  end.tokens = end.usage_tokens = 3;
  EXPECT_TRUE(Passes(end, {1, "OK", 3}));
  EXPECT_FALSE(Passes(end, {1, "OK", 7}));
  StreamEnd wrong = end;
  wrong.usage_tokens = 7;
  EXPECT_FALSE(Passes(wrong, {1, "OK", 3}));
  wrong = end;
  wrong.samples[0].finals = 2;
  EXPECT_FALSE(Passes(wrong, {1, "OK", 3}));
  wrong = end;
  wrong.samples[0].token_ids = {1, 5, 5};
  EXPECT_FALSE(Passes(wrong, {1, "OK", 3}));
  // Without an end at a stop nobody but these may be short of max_tokens.
  wrong = end;
  wrong.behaviour = Behaviour::kPatient;
  EXPECT_FALSE(Passes(wrong, {1, "OK", 3}));
}

TEST(VerdictTest, AStatusMustFitTheBehaviour) {
  EXPECT_TRUE(Passes(Failed(Behaviour::kCancels, grpc::StatusCode::CANCELLED), {1, "CANCELLED", 3}));
  EXPECT_FALSE(Passes(Failed(Behaviour::kPatient, grpc::StatusCode::CANCELLED), {1, "CANCELLED", 3}));
  EXPECT_FALSE(Passes(Failed(Behaviour::kCancels, grpc::StatusCode::INTERNAL), {1, "CANCELLED", 3}));
  EXPECT_FALSE(Passes(Failed(Behaviour::kCancels, grpc::StatusCode::CANCELLED), {1, "INTERNAL", 3}));
  EXPECT_TRUE(Passes(Failed(Behaviour::kDeadline, grpc::StatusCode::DEADLINE_EXCEEDED), {1, "DEADLINE_EXCEEDED", 3}));
  EXPECT_FALSE(Passes(Finished(Behaviour::kInvalid), {1, "OK", 7}));
}

TEST(VerdictTest, OnlyWhoLeftBeforeAnyTokenMayBeUnknownToTheServer) {
  EXPECT_TRUE(CheckEnds({Failed(Behaviour::kCancels, grpc::StatusCode::CANCELLED, 0)}, {}).empty());
  EXPECT_FALSE(CheckEnds({Failed(Behaviour::kCancels, grpc::StatusCode::CANCELLED, 1)}, {}).empty());
}

TEST(VerdictTest, AGapCountsWithoutTheMachinesShareOfIt) {
  StreamEnd end = Finished();
  end.gap_end = std::chrono::steady_clock::now();
  end.longest_gap_seconds = 1.5;
  EXPECT_EQ(CheckGaps({end}, {}, 1).size(), 1);
  EXPECT_EQ(CheckGaps({end}, {}, 2).size(), 0);
  const auto at = [&](int ms) { return end.gap_end - milliseconds(ms); };
  EXPECT_EQ(CheckGaps({end}, {{at(1000), at(400)}}, 1).size(), 0);
  // The same 400 ms twice, and a stall before the gap.
  EXPECT_EQ(CheckGaps({end}, {{at(800), at(400)}, {at(700), at(400)}, {at(9000), at(1500)}}, 1).size(), 1);
  end.behaviour = Behaviour::kStops;
  EXPECT_EQ(CheckGaps({end}, {}, 1).size(), 1);
  end.behaviour = Behaviour::kReadsSlowly;
  EXPECT_EQ(CheckGaps({end}, {}, 1).size(), 0);
}

TEST(VerdictTest, TellsASlowEngineFromOneThatStandsStill) {
  using client::bench::ParseMetrics;
  const auto before = ParseMetrics(
      "spotlight_step_tokens_count{model_name=\"m\"} 100\nspotlight_step_tokens_sum{model_name=\"m\"} 2000\n"
      "spotlight_generation_tokens_total{model_name=\"m\"} 700\nspotlight_requests_running{model_name=\"m\"} 9\n");
  const auto after = ParseMetrics(
      "spotlight_step_tokens_count{model_name=\"m\"} 131\nspotlight_step_tokens_sum{model_name=\"m\"} 3000\n"
      "spotlight_generation_tokens_total{model_name=\"m\"} 890\nspotlight_requests_running{model_name=\"m\"} 10\n"
      "spotlight_requests_waiting{model_name=\"m\"} 102\n");
  EXPECT_EQ(
      FormatProgress(before, after, 2),
      "in the last 2 s the engine took 31 steps, computed 1000 tokens and handed out 190 (10 running, 102 waiting)");
  EXPECT_EQ(FormatProgress(after, after, 2),
            "in the last 2 s the engine took 0 steps, computed 0 tokens and handed out 0 (10 running, 102 waiting)");
  const absl::Status gone = absl::UnavailableError("http://x/metrics: refused");
  EXPECT_EQ(FormatProgress(gone, after, 2), "no metrics: http://x/metrics: refused");
  EXPECT_EQ(FormatProgress(before, gone, 2), "no metrics: http://x/metrics: refused");
}

}  // namespace
}  // namespace spotlight::soak
