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

// context and question together are the prompt's tokens as a server encodes them; what tokens the context shares with
// the question are the question's. answer: the tokens by which the answer goes on from there.
struct EncodedExample {
  TaskExample example;
  std::vector<int32_t> context, question, answer;

  // Given to a generated answer: the model may say it at greater length.
  int64_t max_answer_tokens() const { return 2 * static_cast<int64_t>(answer.size()) + 16; }
  // Of prompt and answer, what the model's context must hold.
  int64_t num_tokens() const { return static_cast<int64_t>(context.size() + question.size()) + max_answer_tokens(); }
};

// The largest example, by bisection of `task`'s size, that with question and generated answer is at most `max_tokens`
// long. INVALID_ARGUMENT: the smallest is longer. Encoding errors as they come.
absl::StatusOr<EncodedExample> EncodeToLength(const Task& task, uint64_t seed, int64_t max_tokens,
                                              const EncodeFunction& encode);

}  // namespace spotlight::training
