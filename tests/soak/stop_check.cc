#include "tests/soak/stop_check.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/soak/tiny_tokens.h"

namespace spotlight::soak {
namespace {

// So many samples end in each way, but for chances that no run will meet: a tenth of them do at least.
constexpr int kEnoughSamples = 150;

bool IsEndOfSequence(int32_t id) {
  return std::count(std::begin(kEndsOfSequence), std::end(kEndsOfSequence), id) > 0;
}

bool Has(const v1::Stopping& stopping, int32_t id) {
  const auto& ids = stopping.stop_token_ids();
  return std::count(ids.begin(), ids.end(), id) > 0 || (!stopping.ignore_eos() && IsEndOfSequence(id));
}

bool IsKnown(int32_t id) {
  return id < kNumCharacters || IsEndOfSequence(id);
}

struct Expected {
  size_t num_tokens = 0;  // 0: not ended by these tokens
  bool stopped = false;
  std::string matched;  // the stop string
  std::string text;
};

// Of known tokens, one character at a time.
Expected Follow(const v1::Stopping& stopping, const std::vector<int32_t>& ids) {
  Expected end;
  for (size_t n = 1; n <= ids.size(); ++n) {
    const int32_t id = ids[n - 1];
    const bool may_stop = n >= static_cast<size_t>(stopping.min_tokens());
    const bool stops = may_stop && Has(stopping, id);
    const bool adds_text = !IsEndOfSequence(id) && (!stops || stopping.include_stop());
    if (adds_text) end.text += CharacterOf(id);
    for (const std::string& stop : stopping.stop()) {
      if (may_stop && adds_text && absl::EndsWith(end.text, stop) && stop.size() > end.matched.size())
        end.matched = stop;
    }
    end.stopped = stops || !end.matched.empty();
    if (!end.stopped && n < static_cast<size_t>(stopping.max_tokens())) continue;
    end.num_tokens = n;
    if (!stopping.include_stop()) end.text.resize(end.text.size() - end.matched.size());
    return end;
  }
  return end;
}

std::string WrongAgainst(const Expected& expected, const SampleEnd& sample) {
  if (expected.num_tokens != sample.token_ids.size()) {
    return expected.num_tokens == 0
               ? absl::StrCat("no end in its ", sample.token_ids.size(), " tokens")
               : absl::StrCat(sample.token_ids.size(), " tokens, after an end at ", expected.num_tokens);
  }
  if (expected.stopped != (sample.finish_reason == v1::FINISH_REASON_STOP)) {
    return absl::StrCat("finish reason ", sample.finish_reason);
  }
  if (expected.matched != sample.matched_stop) {
    return absl::StrCat("matched \"", sample.matched_stop, "\", not \"", expected.matched, "\"");
  }
  if (expected.text != sample.text) return absl::StrCat("text \"", sample.text, "\", not \"", expected.text, "\"");
  return "";
}

// Of the text as it came.
std::string WrongInText(const v1::Stopping& stopping, const SampleEnd& sample) {
  absl::string_view text = sample.text;
  if (!sample.matched_stop.empty() && stopping.include_stop()) {
    if (!absl::EndsWith(text, sample.matched_stop)) return "text that does not end with its stop string";
    text.remove_suffix(1);
  }
  for (const std::string& stop : stopping.stop()) {
    if (absl::StrContains(text, stop)) return absl::StrCat("text with the stop string \"", stop, "\"");
  }
  return "";
}

}  // namespace

std::string WrongInStop(const v1::Stopping& stopping, const SampleEnd& sample) {
  const std::vector<int32_t>& ids = sample.token_ids;
  const auto num_tokens = static_cast<int>(ids.size());
  if (num_tokens < 1 || num_tokens > stopping.max_tokens()) return absl::StrCat(num_tokens, " tokens");
  for (int n = std::max(1, stopping.min_tokens()); n < num_tokens; ++n) {
    if (Has(stopping, ids[n - 1])) return absl::StrCat("stop token ", ids[n - 1], " before the last");
  }
  const bool by_string = !sample.matched_stop.empty(), by_token = sample.matched_stop_token.has_value();
  switch (sample.finish_reason) {
    case v1::FINISH_REASON_STOP:
      if (by_string == by_token) return "stopped, and not by one of a string and a token";
      if (num_tokens < stopping.min_tokens()) return absl::StrCat("stopped after ", num_tokens, " tokens");
      break;
    case v1::FINISH_REASON_LENGTH:
      if (by_string || by_token) return "at its length, with what it stopped at";
      if (num_tokens != stopping.max_tokens()) return absl::StrCat("at its length after ", num_tokens, " tokens");
      break;
    default:
      return absl::StrCat("finish reason ", sample.finish_reason);
  }
  if (by_token && (*sample.matched_stop_token != ids.back() || !Has(stopping, ids.back()))) {
    return absl::StrCat("stopped by token ", *sample.matched_stop_token, ", the last is ", ids.back());
  }
  const auto& stops = stopping.stop();
  if (by_string && std::count(stops.begin(), stops.end(), sample.matched_stop) == 0) {
    return absl::StrCat("matched \"", sample.matched_stop, "\", which it did not ask for");
  }
  if (std::all_of(ids.begin(), ids.end(), IsKnown)) return WrongAgainst(Follow(stopping, ids), sample);
  return stopping.min_tokens() > 0 ? "" : WrongInText(stopping, sample);
}

StopCounts CountStops(const std::vector<StreamEnd>& ends) {
  StopCounts counts;
  for (const StreamEnd& end : ends) {
    if (end.behaviour != Behaviour::kStops || !end.status.ok()) continue;
    for (const SampleEnd& sample : end.samples) {
      if (sample.finish_reason == v1::FINISH_REASON_LENGTH) ++counts.by_length;
      if (sample.finish_reason != v1::FINISH_REASON_STOP) continue;
      if (!sample.matched_stop_token.has_value()) {
        ++counts.by_string;
      } else if (IsEndOfSequence(*sample.matched_stop_token)) {
        ++counts.by_end_of_sequence;
      } else {
        ++counts.by_token;
      }
    }
  }
  return counts;
}

std::vector<std::string> CheckStopCounts(const StopCounts& counts) {
  std::vector<std::string> wrongs;
  if (counts.total() < kEnoughSamples) return wrongs;
  const auto check = [&](int count, const char* way) {
    if (count == 0) wrongs.push_back(absl::StrCat("of ", counts.total(), " samples that may stop none ended ", way));
  };
  check(counts.by_string, "by a stop string");
  check(counts.by_token, "by a stop token");
  check(counts.by_end_of_sequence, "by an end of sequence");
  check(counts.by_length, "at its length");
  return wrongs;
}

}  // namespace spotlight::soak
