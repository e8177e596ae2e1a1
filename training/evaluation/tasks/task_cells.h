// The examples of a suite of tasks, cell by cell, encoded once for all that is measured on them. No torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/tokenizer/tokenizer.h"
#include "training/evaluation/tasks/encoded_example.h"

namespace spotlight::training {

struct TaskCell {
  std::string task;
  int64_t length = 0;            // tokens, prompt and answer; examples are as long as fits
  absl::optional<double> depth;  // of the needle grid: where the fact stands, 0 to 1
  std::vector<EncodedExample> examples;
};

// Pieces are encoded as `tokenizer` does, special tokens only where a sequence begins. `tokenizer` outlives the result.
EncodeFunction EncodeWith(const engine::Tokenizer& tokenizer);

// A cell for each task and length, lengths innermost, with examples of seeds that depend on (task, seed, example)
// alone, so that lengths differ in nothing else. `tasks` empty: all. INVALID_ARGUMENT: an unknown task (the message
// lists them), a length that a task cannot have, no examples.
absl::StatusOr<std::vector<TaskCell>> MakeTaskCells(absl::Span<const std::string> tasks,
                                                    absl::Span<const int64_t> lengths, int32_t examples, uint64_t seed,
                                                    const EncodeFunction& encode);

// The needle-in-a-haystack grid: a cell of the task "needle" for each length and depth, depths innermost.
absl::StatusOr<std::vector<TaskCell>> MakeNeedleGrid(absl::Span<const int64_t> lengths, absl::Span<const double> depths,
                                                     int32_t examples, uint64_t seed, const EncodeFunction& encode);

}  // namespace spotlight::training
