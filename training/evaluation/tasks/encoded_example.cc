#include "training/evaluation/tasks/encoded_example.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

absl::StatusOr<EncodedExample> EncodeAt(const Task& task, int64_t size, uint64_t seed, const EncodeFunction& encode) {
  EncodedExample encoded;
  encoded.example = task.generate(size, seed);
  const std::pair<const std::string*, std::vector<int32_t>*> pieces[] = {{&encoded.example.context, &encoded.context},
                                                                         {&encoded.example.question, &encoded.question},
                                                                         {&encoded.example.answer, &encoded.answer}};
  for (const auto& [text, ids] : pieces) {
    auto tokens = encode(*text, text == &encoded.example.context);
    if (!tokens.ok()) return tokens.status();
    *ids = *std::move(tokens);
  }
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
  return best;
}

}  // namespace spotlight::training
