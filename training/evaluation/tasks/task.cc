#include "training/evaluation/tasks/task.h"

#include "training/evaluation/tasks/needles.h"
#include "training/evaluation/tasks/tracing.h"
#include "training/evaluation/tasks/words.h"

namespace spotlight::training {
namespace {

// Far fewer than there are, so that drawing distinct ones stays quick: about a million tokens.
constexpr int64_t kMaxSentences = 50000;

}  // namespace

const std::vector<Task>& GeneratedTasks() {
  static const auto* const kTasks = new std::vector<Task>{
      {"needle", 1, kMaxSentences, NeedleTask},
      {"multi_key", 4, kMaxSentences, MultiKeyTask},
      {"many_keys", 1, kMaxKeys - 1, ManyKeysTask},
      {"multi_value", 4, kMaxSentences, MultiValueTask},
      {"multi_query", 4, kMaxSentences, MultiQueryTask},
      {"variables", 1, kMaxSentences, VariablesTask},
      {"common_words", 1, kMaxNouns - 10, CommonWordsTask},
      {"frequent_words", 4, kMaxSentences, FrequentWordsTask},
  };
  return *kTasks;
}

}  // namespace spotlight::training
