#include "client/bench/workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace spotlight::client::bench {
namespace {

// Most tokenizers have each of these, with the space before it, as one token.
constexpr const char* kWords[] = {" the",  " time", " people", " way",   " water", " day",   " man",   " world",
                                  " life", " hand", " part",   " place", " work",  " week",  " case",  " point",
                                  " year", " home", " number", " night", " house", " story", " light", " city",
                                  " name", " line", " end",    " room",  " book",  " eye",   " word",  " side"};
constexpr size_t kNumWords = sizeof(kWords) / sizeof(kWords[0]);

// splitmix64 (Steele, Lea, Flood 2014): a good hash of a counter, so that request i needs none of those before it.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

int32_t Uniform(int32_t low, int32_t high, uint64_t random_bits) {
  return low + static_cast<int32_t>(random_bits % (static_cast<uint64_t>(high) - low + 1));
}

}  // namespace

std::string LengthRange::ToString() const {
  return low == high ? absl::StrCat(low) : absl::StrCat(low, ":", high);
}

absl::StatusOr<LengthRange> ParseLengthRange(const std::string& text, int32_t min) {
  const std::vector<std::string> ends = absl::StrSplit(text, ':');
  LengthRange range;
  if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &range.low) || !absl::SimpleAtoi(ends.back(), &range.high)) {
    return absl::InvalidArgumentError(absl::StrCat("takes N or LOW:HIGH in tokens, got '", text, "'"));
  }
  if (range.low < min || range.high < range.low) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be at least ", min, ", and LOW not above HIGH, got '", text, "'"));
  }
  return range;
}

Workload::Workload(WorkloadOptions options) : options_(std::move(options)) {
  for (int32_t i = 0; i < options_.shared_prefix_tokens; ++i) {
    shared_prefix_.push_back(TokenFrom(Mix(Mix(options_.seed ^ 0x5072656669780000) + i)));
  }
}

int32_t Workload::TokenFrom(uint64_t random_bits) const {
  int32_t token = static_cast<int32_t>(random_bits % std::max(options_.vocab_size, 1));
  const auto excluded = [this](int32_t id) {
    return std::find(options_.excluded_tokens.begin(), options_.excluded_tokens.end(), id) !=
           options_.excluded_tokens.end();
  };
  for (int32_t i = 0; i < options_.vocab_size && excluded(token); ++i) token = (token + 1) % options_.vocab_size;
  return token;
}

void Workload::SetRandomPrompt(int32_t num_tokens, uint64_t random_key, v1::GenerateRequest* request) const {
  if (options_.as_text) {
    std::string* text = request->mutable_text();
    for (const int32_t id : shared_prefix_) text->append(kWords[id % kNumWords]);
    for (int32_t i = 0; i < num_tokens; ++i) text->append(kWords[Mix(random_key + i) % kNumWords]);
    return;
  }
  auto* ids = request->mutable_token_ids()->mutable_ids();
  ids->Reserve(static_cast<int>(shared_prefix_.size()) + num_tokens);
  ids->Add(shared_prefix_.begin(), shared_prefix_.end());
  for (int32_t i = 0; i < num_tokens; ++i) ids->Add(TokenFrom(Mix(random_key + i)));
}

WorkItem Workload::Make(uint64_t index) const {
  const uint64_t key = Mix(Mix(options_.seed) + index);
  WorkItem item;
  item.request = options_.base;
  if (options_.dataset.empty()) {
    const int32_t num_tokens = Uniform(options_.input.low, options_.input.high, Mix(key + 1));
    SetRandomPrompt(num_tokens, Mix(key + 2), &item.request);
    // How many tokens a text has is the server's to say.
    if (!options_.as_text) item.input_tokens = options_.shared_prefix_tokens + num_tokens;
  } else {
    const DatasetPrompt& prompt = options_.dataset[index % options_.dataset.size()];
    item.request.MergeFrom(prompt.request);
    item.input_tokens = item.request.token_ids().ids_size();
    item.output_tokens = prompt.output_tokens.value_or(0);
  }
  if (options_.output.has_value()) {
    item.output_tokens = Uniform(options_.output->low, options_.output->high, Mix(key + 3));
  }
  if (item.output_tokens > 0) item.request.mutable_stopping()->set_max_tokens(item.output_tokens);
  // With ids, tokens count even where several come in one message or make no character yet.
  item.request.set_return_token_ids(true);
  if (static_cast<double>(Mix(key + 4) >> 11) * 0x1p-53 < options_.cancel_share) {
    item.cancel_after_tokens = Uniform(1, std::max(1, item.output_tokens - 1), Mix(key + 5));
  }
  return item;
}

}  // namespace spotlight::client::bench
