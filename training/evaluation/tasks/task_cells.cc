#include "training/evaluation/tasks/task_cells.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace spotlight::training {
namespace {

// Another for every task, suite and example: tasks do not ask for each other's keys.
uint64_t ExampleSeed(const std::string& task, uint64_t seed, int32_t example) {
  constexpr uint64_t kOffset = 14695981039346656037u, kPrime = 1099511628211u;  // FNV-1a
  uint64_t hash = kOffset;
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * kPrime;
  return ((hash ^ seed) * kPrime ^ static_cast<uint64_t>(example)) * kPrime;
}

absl::StatusOr<TaskCell> MakeCell(const Task& task, int64_t length, int32_t examples, uint64_t seed,
                                  const EncodeFunction& encode) {
  if (examples < 1) {
    return absl::InvalidArgumentError(absl::StrCat("examples of a task: must be at least 1, got ", examples));
  }
  TaskCell cell;
  cell.task = task.name;
  cell.length = length;
  for (int32_t i = 0; i < examples; ++i) {
    auto example = EncodeToLength(task, ExampleSeed(task.name, seed, i), length, encode);
    if (!example.ok()) return example.status();
    cell.examples.push_back(*std::move(example));
  }
  return cell;
}

absl::StatusOr<const Task*> FindTask(const std::string& name) {
  for (const Task& task : GeneratedTasks()) {
    if (task.name == name) return &task;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "task ", name, ": must be one of ", absl::StrJoin(GeneratedTasks(), ", ", [](std::string* out, const Task& task) {
        absl::StrAppend(out, task.name);
      })));
}

}  // namespace

EncodeFunction EncodeWith(const engine::Tokenizer& tokenizer) {
  return [&tokenizer](absl::string_view text, bool at_start) { return tokenizer.Encode(text, at_start); };
}

absl::StatusOr<std::vector<TaskCell>> MakeTaskCells(absl::Span<const std::string> tasks,
                                                    absl::Span<const int64_t> lengths, int32_t examples, uint64_t seed,
                                                    const EncodeFunction& encode) {
  std::vector<const Task*> chosen;
  for (const std::string& name : tasks) {
    auto task = FindTask(name);
    if (!task.ok()) return task.status();
    chosen.push_back(*task);
  }
  if (tasks.empty()) {
    for (const Task& task : GeneratedTasks()) chosen.push_back(&task);
  }
  std::vector<TaskCell> cells;
  for (const Task* task : chosen) {
    for (const int64_t length : lengths) {
      auto cell = MakeCell(*task, length, examples, seed, encode);
      if (!cell.ok()) return cell.status();
      cells.push_back(*std::move(cell));
    }
  }
  return cells;
}

absl::StatusOr<std::vector<TaskCell>> MakeNeedleGrid(absl::Span<const int64_t> lengths, absl::Span<const double> depths,
                                                     int32_t examples, uint64_t seed, const EncodeFunction& encode) {
  auto needle = FindTask("needle");
  if (!needle.ok()) return needle.status();
  std::vector<TaskCell> cells;
  for (const int64_t length : lengths) {
    for (const double depth : depths) {
      if (!(depth >= 0 && depth <= 1)) {
        return absl::InvalidArgumentError(absl::StrCat("depth of a needle: must be in [0, 1], got ", depth));
      }
      Task task = **needle;
      task.generate = [depth](int64_t size, uint64_t example_seed) { return NeedleAtDepth(size, depth, example_seed); };
      auto cell = MakeCell(task, length, examples, seed, encode);
      if (!cell.ok()) return cell.status();
      cell->depth = depth;
      cells.push_back(*std::move(cell));
    }
  }
  return cells;
}

}  // namespace spotlight::training
