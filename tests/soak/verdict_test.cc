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
  end.finish_reason = v1::FINISH_REASON_LENGTH;
  end.max_tokens = end.tokens = end.usage_tokens = 7;
  end.finals = 1;
  return end;
}

StreamEnd Failed(Behaviour behaviour, grpc::StatusCode code, int tokens = 3) {
  StreamEnd end = Finished(behaviour);
  end.finish_reason = v1::FINISH_REASON_UNSPECIFIED;
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
  unfinished.finals = 0;
  late.after_final = 1;
  for (const StreamEnd& end : {twice, short_of_one, unfinished, late}) EXPECT_FALSE(Passes(end, {1, "OK", 7}));
  StreamEnd samples = Finished();
  samples.num_samples = 2;
  EXPECT_FALSE(Passes(samples, {1, "OK", 7}));
  samples.finals = 2;
  EXPECT_TRUE(Passes(samples, {1, "OK", 7}));
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
