// Generated long-context tasks: something to find, follow or count in a text made for it. Own wording; the families are
// RULER's (arXiv 2404.06654). Pure functions of their arguments: same seed, same text. No torch. See ../TASKS.md.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace spotlight::training {

struct TaskExample {
  std::string context;                  // the long text
  std::string question;                 // what follows it; the model goes on from here
  std::string answer;                   // the right continuation, for scoring it teacher-forced; begins with a space
  std::vector<std::string> references;  // what a right answer contains
};

struct Task {
  std::string name;
  int64_t min_size = 1, max_size = 1;
  // size: units of text that are not asked for (sentences, facts, words); the text's length grows with it.
  std::function<TaskExample(int64_t size, uint64_t seed)> generate;
};

// needle           one fact in running text, at a depth drawn from the seed
// multi_key        four facts of different keys in running text, one asked for
// many_keys        nothing but such facts, one asked for
// multi_value      four facts of one key, all asked for
// multi_query      four facts of different keys, all asked for
// variables        a chain of assignments in running text: every variable that holds the value
// common_words     a list of words, ten of them often: those ten
// frequent_words   a list of made-up words whose counts fall as 1 / rank^2: the three most frequent
const std::vector<Task>& GeneratedTasks();

// The task "needle" with its fact at `depth` of the text, 0 (the beginning) to 1 (the end).
TaskExample NeedleAtDepth(int64_t size, double depth, uint64_t seed);

}  // namespace spotlight::training
