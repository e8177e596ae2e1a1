#include "training/evaluation/tasks/tracing.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "training/evaluation/tasks/words.h"

namespace spotlight::training {
namespace {

constexpr int64_t kChainLength = 5;  // variables that hold a value: one directly, the others through the one before
constexpr int64_t kNumChains = 2;    // one is asked for
constexpr int64_t kNumCommon = 10, kCommonCount = 12, kUncommonCount = 2;
constexpr int64_t kNumFrequent = 3;

std::vector<std::string> Assignments(const std::vector<std::string>& names, const std::string& value) {
  std::vector<std::string> chain = {absl::StrCat("VAR ", names[0], " = ", value, ".")};
  for (size_t i = 1; i < names.size(); ++i) chain.push_back(absl::StrCat("VAR ", names[i], " = ", names[i - 1], "."));
  return chain;
}

std::string VariablesQuestion(const std::string& value) {
  return absl::StrCat("Question: which variables hold the value ", value,
                      ", directly or through other variables?\nAnswer: the variables that hold ", value, " are");
}

std::string WordsQuestion(int64_t count) {
  return absl::StrCat("Question: which ", count, " words come most often in the list?\nAnswer: the ", count,
                      " words that come most often are");
}

// The list of a counting task, numbered.
std::string NumberedList(std::vector<std::string> words, Random* random) {
  random->Shuffle(words);
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) absl::StrAppend(&list, i == 0 ? "" : " ", i + 1, ". ", words[i]);
  return list;
}

TaskExample AskForWords(std::string context, std::vector<std::string> words) {
  TaskExample example;
  example.context = std::move(context);
  example.question = WordsQuestion(static_cast<int64_t>(words.size()));
  example.answer = absl::StrCat(" ", Enumerate(words), ".");
  example.references = std::move(words);
  return example;
}

void Repeat(const std::string& word, int64_t count, std::vector<std::string>* words) {
  words->insert(words->end(), count, word);
}

}  // namespace

TaskExample VariablesTask(int64_t size, uint64_t seed) {
  Random random(seed);
  // The first chain is the worked example's, in a few sentences of its own.
  const std::vector<std::string> names = DrawVariableNames((kNumChains + 1) * kChainLength, &random);
  const std::vector<std::string> values = DrawValues(kNumChains + 1, &random);
  std::vector<std::vector<std::string>> chains;
  for (int64_t c = 0; c <= kNumChains; ++c) {
    chains.emplace_back(names.begin() + c * kChainLength, names.begin() + (c + 1) * kChainLength);
  }
  // Both chains in their own order, one statement of either at a time, between sentences.
  std::vector<std::string> statements;
  std::vector<std::vector<std::string>> left = {Assignments(chains[1], values[1]), Assignments(chains[2], values[2])};
  while (!left[0].empty() || !left[1].empty()) {
    std::vector<std::string>& from = left[left[0].empty() ? 1 : left[1].empty() ? 0 : random.Below(2)];
    statements.push_back(from.front());
    from.erase(from.begin());
  }
  std::vector<std::string> sentences = FillerSentences(&random).Draw(size);
  std::vector<int64_t> places;
  for (size_t i = 0; i < statements.size(); ++i) places.push_back(random.Below(size + 1));
  std::sort(places.begin(), places.end());
  for (size_t i = statements.size(); i-- > 0;) sentences.insert(sentences.begin() + places[i], statements[i]);

  TaskExample example;
  example.context =
      absl::StrCat("Variables are assigned in the following texts, among other things.\n\nText: ",
                   absl::StrJoin(Assignments(chains[0], values[0]), " "), "\n", VariablesQuestion(values[0]), " ",
                   Enumerate(chains[0]), ".\n\nText: ", absl::StrJoin(sentences, " "), "\n");
  example.question = VariablesQuestion(values[1]);
  example.answer = absl::StrCat(" ", Enumerate(chains[1]), ".");
  example.references = chains[1];
  return example;
}

TaskExample CommonWordsTask(int64_t size, uint64_t seed) {
  Random random(seed);
  std::vector<std::string> nouns = DrawNouns(kNumCommon + size, &random), list;
  for (int64_t i = 0; i < kNumCommon + size; ++i)
    Repeat(nouns[i], i < kNumCommon ? kCommonCount : kUncommonCount, &list);
  nouns.resize(kNumCommon);
  return AskForWords(absl::StrCat("Some words of the following list come often, the others seldom.\n\nList: ",
                                  NumberedList(std::move(list), &random), "\n"),
                     std::move(nouns));
}

TaskExample FrequentWordsTask(int64_t size, uint64_t seed) {
  Random random(seed);
  // Counts fall as 1 / rank^2 and strictly among the first four, so that the three are the three.
  std::vector<std::string> words = DrawMadeUpWords(size + kNumFrequent, &random), list;
  const double first = std::max(18.0, 0.6 * static_cast<double>(size));
  for (size_t rank = 1; rank <= words.size(); ++rank) {
    Repeat(words[rank - 1], std::max<int64_t>(1, std::llround(first / static_cast<double>(rank * rank))), &list);
  }
  words.resize(kNumFrequent);
  return AskForWords(absl::StrCat("The words of the following list come more or less often.\n\nList: ",
                                  NumberedList(std::move(list), &random), "\n"),
                     std::move(words));
}

}  // namespace spotlight::training
