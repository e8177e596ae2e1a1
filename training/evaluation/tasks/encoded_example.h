// A task's example as token ids, as long as asked for. No torch.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "training/evaluation/tasks/task.h"

namespace spotlight::training {

// Ids of a piece of text; `at_start`: it begins the sequence (where a tokenizer adds its BOS).
using EncodeFunction = std::function<absl::StatusOr<std::vector<int32_t>>(absl::string_view text, bool at_start)>;

// Pieces are encoded by themselves, so that their borders are borders of tokens.
struct EncodedExample {
  TaskExample example;
  std::vector<int32_t> context, question, answer;

  int64_t num_tokens() const { return static_cast<int64_t>(context.size() + question.size() + answer.size()); }
};

// The largest example, by bisection of `task`'s size, that with question and answer is at most `max_tokens` long.
// INVALID_ARGUMENT: the smallest is longer. Encoding errors as they come.
absl::StatusOr<EncodedExample> EncodeToLength(const Task& task, uint64_t seed, int64_t max_tokens,
                                              const EncodeFunction& encode);

}  // namespace spotlight::training
