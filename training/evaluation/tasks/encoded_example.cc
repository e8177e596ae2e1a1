#include "training/evaluation/tasks/encoded_example.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

size_t CommonPrefix(const std::vector<int32_t>& one, const std::vector<int32_t>& other) {
  return std::mismatch(one.begin(), one.begin() + static_cast<int64_t>(std::min(one.size(), other.size())),
                       other.begin())
             .first -
         one.begin();
}

// The prompt whole, as a server would encode it, all of it in `question` as yet.
absl::StatusOr<EncodedExample> EncodeAt(const Task& task, int64_t size, uint64_t seed, const EncodeFunction& encode) {
  EncodedExample encoded;
  encoded.example = task.generate(size, seed);
  const TaskExample& text = encoded.example;
  auto prompt = encode(absl::StrCat(text.context, text.question), true);
  if (!prompt.ok()) return prompt.status();
  encoded.question = *std::move(prompt);
  // The answer as it goes on from the question.
  auto question = encode(text.question, false), both = encode(absl::StrCat(text.question, text.answer), false);
  if (!question.ok()) return question.status();
  if (!both.ok()) return both.status();
  if (CommonPrefix(*question, *both) == question->size() && both->size() > question->size()) {
    encoded.answer.assign(both->begin() + static_cast<int64_t>(question->size()), both->end());
    return encoded;
  }
  auto answer = encode(text.answer, false);
  if (!answer.ok()) return answer.status();
  encoded.answer = *std::move(answer);
  return encoded;
}

// Moves the tokens that are the context's alone to `context`. A token across the border stays with the question.
absl::StatusOr<EncodedExample> SplitPrompt(EncodedExample encoded, const EncodeFunction& encode) {
  auto context = encode(encoded.example.context, true);
  if (!context.ok()) return context.status();
  const auto border = encoded.question.begin() + static_cast<int64_t>(CommonPrefix(*context, encoded.question));
  encoded.context.assign(encoded.question.begin(), border);
  encoded.question.erase(encoded.question.begin(), border);
  return encoded;
}

}  // namespace

absl::StatusOr<EncodedExample> EncodeToLength(const Task& task, uint64_t seed, int64_t max_tokens,
                                              const EncodeFunction& encode) {
  auto best = EncodeAt(task, task.min_size, seed, encode);
  if (!best.ok()) return best.status();
  if (best->num_tokens() > max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("task ", task.name, ": its shortest text has ", best->num_tokens(),
                                                   " tokens, at most ", max_tokens, " were asked for"));
  }
  // `fits` does, `over` does not. The first guess is what the smallest one's length says.
  int64_t fits = task.min_size, over = task.max_size + 1;
  int64_t guess = std::clamp<int64_t>(max_tokens / 16, fits + 1, over);
  while (over - fits > 1) {
    const int64_t size = std::clamp<int64_t>(guess, fits + 1, over - 1);
    auto encoded = EncodeAt(task, size, seed, encode);
    if (!encoded.ok()) return encoded.status();
    const int64_t tokens = encoded->num_tokens();
    if (tokens > max_tokens) {
      over = size;
    } else {
      fits = size;
      best = std::move(encoded);
    }
    // In proportion, which the length nearly is, then by halves.
    guess = std::abs(tokens - max_tokens) * 20 > max_tokens ? size * max_tokens / tokens : (fits + over) / 2;
  }
  return SplitPrompt(*std::move(best), encode);
}

}  // namespace spotlight::training
