#include "tests/soak/verdict.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/bench/summary.h"
#include "tests/soak/stop_check.h"

namespace spotlight::soak {
namespace {

using client::bench::CodeName;
using Codes = std::set<std::string>;

// What the client may see, and what the server may log of it.
struct Allowed {
  Codes client, server;
};

const Allowed& AllowedFor(Behaviour behaviour) {
  static const auto* const table = new std::map<Behaviour, Allowed>{
      {Behaviour::kPatient, {{"OK"}, {"OK"}}},
      {Behaviour::kStops, {{"OK"}, {"OK"}}},
      {Behaviour::kReadsSlowly, {{"OK"}, {"OK"}}},
      {Behaviour::kCancels, {{"CANCELLED", "OK"}, {"CANCELLED", "OK"}}},
      // Whoever is first: the passing of the deadline, the last token, or an admission that sees it coming. A timeout
      // counts from the arrival, so the client's reset can come well before the server's own deadline: on the wire it
      // is a cancel.
      {Behaviour::kDeadline,
       {{"DEADLINE_EXCEEDED", "OK", "RESOURCE_EXHAUSTED"},
        {"DEADLINE_EXCEEDED", "OK", "RESOURCE_EXHAUSTED", "CANCELLED"}}},
      // All of it may fit in the buffers.
      {Behaviour::kStopsReading,
       {{"CANCELLED", "OK", "RESOURCE_EXHAUSTED"}, {"CANCELLED", "OK", "RESOURCE_EXHAUSTED"}}},
      {Behaviour::kLosesNetwork, {{"UNAVAILABLE", "OK"}, {"CANCELLED", "OK"}}},
      {Behaviour::kAborts, {{"CANCELLED", "OK"}, {"CANCELLED", "OK"}}},
      {Behaviour::kInvalid, {{"INVALID_ARGUMENT"}, {"INVALID_ARGUMENT"}}},
  };
  return table->at(behaviour);
}

// Only the client may end these before the server has seen them.
bool MayBeUnseen(const StreamEnd& end) {
  return end.tokens == 0 && !end.status.ok() &&
         (end.behaviour == Behaviour::kCancels || end.behaviour == Behaviour::kDeadline ||
          end.behaviour == Behaviour::kLosesNetwork || end.behaviour == Behaviour::kStopsReading);
}

// Of a sample that has ended.
std::string WrongInSample(const StreamEnd& end, const SampleEnd& sample) {
  if (sample.finals != 1) return absl::StrCat(sample.finals, " messages with a finish reason");
  if (end.behaviour == Behaviour::kStops) return WrongInStop(end.stopping, sample);
  if (sample.finish_reason != v1::FINISH_REASON_LENGTH) return absl::StrCat("finish reason ", sample.finish_reason);
  return "";
}

// A finished request's tokens are all there, once, and it says so.
std::string WrongInMessages(const StreamEnd& end) {
  if (end.after_final > 0) return absl::StrCat(end.after_final, " messages after the last");
  if (end.strays > 0) return absl::StrCat(end.strays, " messages of no sample");
  if (!end.status.ok()) return "";
  for (size_t i = 0; i < end.samples.size(); ++i) {
    const std::string wrong = WrongInSample(end, end.samples[i]);
    if (!wrong.empty()) return absl::StrCat("sample ", i, ": ", wrong);
  }
  // Samples that may stop were counted above.
  const int tokens = end.behaviour == Behaviour::kStops ? end.tokens : end.max_tokens;
  if (end.tokens != tokens || end.usage_tokens != tokens) {
    return absl::StrCat(end.tokens, " tokens came, usage says ", end.usage_tokens, ", asked for ", end.max_tokens);
  }
  if (end.token_logprobs != (end.logprobs ? tokens : 0)) {
    return absl::StrCat(end.token_logprobs, " log-probabilities of ", tokens, " tokens");
  }
  return "";
}

std::string WrongIn(const StreamEnd& end, const LoggedEnd* logged) {
  const Allowed& allowed = AllowedFor(end.behaviour);
  const std::string code = CodeName(end.status.error_code());
  if (allowed.client.count(code) == 0) return absl::StrCat("ended with ", code, ": ", end.status.error_message());
  if (end.num_dones != 1) return absl::StrCat("ended ", end.num_dones, " times");
  if (const std::string wrong = WrongInMessages(end); !wrong.empty()) return wrong;
  // A refused request may have no id in the log.
  if (end.behaviour == Behaviour::kInvalid) return "";
  if (logged == nullptr)
    return MayBeUnseen(end) ? "" : absl::StrCat("ended with ", code, ", and the server knows nothing of it");
  if (logged->count != 1) return absl::StrCat("ended ", logged->count, " times in the server's log");
  if (allowed.server.count(logged->code) == 0) return absl::StrCat("the server ended it with ", logged->code);
  if (end.status.ok() && (logged->code != "OK" || logged->completion_tokens != end.tokens)) {
    return absl::StrCat("OK here, in the server's log ", logged->code, " after ", logged->completion_tokens, " tokens");
  }
  return "";
}

// Those that overlap become one.
std::vector<MachineStall> Merge(std::vector<MachineStall> stalls) {
  std::sort(stalls.begin(), stalls.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<MachineStall> merged;
  for (const MachineStall& stall : stalls) {
    if (merged.empty() || stall.begin > merged.back().end) {
      merged.push_back(stall);
    } else {
      merged.back().end = std::max(merged.back().end, stall.end);
    }
  }
  return merged;
}

}  // namespace

bool ReadsAll(const StreamEnd& end) {
  return end.behaviour == Behaviour::kPatient || end.behaviour == Behaviour::kStops;
}

std::vector<std::string> CheckEnds(const std::vector<StreamEnd>& ends, const std::map<std::string, LoggedEnd>& log) {
  std::vector<std::string> wrongs;
  for (const StreamEnd& end : ends) {
    const auto logged = log.find(end.request_id);
    const std::string wrong = WrongIn(end, logged == log.end() ? nullptr : &logged->second);
    if (!wrong.empty()) wrongs.push_back(absl::StrCat(end.request_id, " (", NameOf(end.behaviour), "): ", wrong));
  }
  return wrongs;
}

std::vector<std::string> CheckGaps(const std::vector<StreamEnd>& ends, std::vector<MachineStall> stalls,
                                   double bound_seconds) {
  using Seconds = std::chrono::duration<double>;
  const std::vector<MachineStall> apart = Merge(std::move(stalls));
  std::vector<std::string> wrongs;
  for (const StreamEnd& end : ends) {
    if (!ReadsAll(end) || end.longest_gap_seconds <= bound_seconds) continue;
    const auto begin =
        end.gap_end - std::chrono::duration_cast<std::chrono::steady_clock::duration>(Seconds(end.longest_gap_seconds));
    double machine = 0;
    for (const MachineStall& stall : apart) {
      machine += std::max(0.0, Seconds(std::min(stall.end, end.gap_end) - std::max(stall.begin, begin)).count());
    }
    if (end.longest_gap_seconds - machine <= bound_seconds) continue;
    wrongs.push_back(absl::StrFormat("%s: %.2f s between two messages, %.2f s of them for want of a core",
                                     end.request_id, end.longest_gap_seconds, machine));
  }
  return wrongs;
}

std::string FormatEnds(const std::vector<StreamEnd>& ends) {
  std::map<Behaviour, std::map<std::string, int>> counts;
  for (const StreamEnd& end : ends) ++counts[end.behaviour][CodeName(end.status.error_code())];
  std::string text;
  for (const auto& [behaviour, codes] : counts) {
    absl::StrAppendFormat(&text, "  %-14s %s\n", NameOf(behaviour),
                          absl::StrJoin(codes, ", ", absl::PairFormatter(" ")));
  }
  const StopCounts stops = CountStops(ends);
  absl::StrAppendFormat(
      &text,
      "samples that may stop: %d did by a string, %d by a token, %d by an end of sequence, %d had their length\n",
      stops.by_string, stops.by_token, stops.by_end_of_sequence, stops.by_length);
  return text;
}

std::string FormatProgress(const absl::StatusOr<client::bench::MetricSamples>& before,
                           const absl::StatusOr<client::bench::MetricSamples>& after, double seconds) {
  if (!before.ok()) return absl::StrCat("no metrics: ", before.status().message());
  if (!after.ok()) return absl::StrCat("no metrics: ", after.status().message());
  const auto growth = [&](const char* name) { return client::bench::GrowthOf(*before, *after, name); };
  return absl::StrFormat(
      "in the last %g s the engine took %.0f steps, computed %.0f tokens and handed out %.0f (%.0f running, %.0f "
      "waiting)",
      seconds, growth("spotlight_step_tokens_count"), growth("spotlight_step_tokens_sum"),
      growth("spotlight_generation_tokens_total"), Sum(*after, "spotlight_requests_running"),
      Sum(*after, "spotlight_requests_waiting"));
}

}  // namespace spotlight::soak
