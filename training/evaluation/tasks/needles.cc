#include "training/evaluation/tasks/needles.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "training/evaluation/tasks/words.h"

namespace spotlight::training {
namespace {

constexpr int64_t kNumNeedles = 4;
constexpr char kInstruction[] =
    "Some special magic numbers are hidden in the following text. Remember them: they are asked for at the end.\n\n";

std::string Fact(const std::string& key, const std::string& value) {
  return absl::StrCat("The special magic number for ", key, " is ", value, ".");
}

std::string Text(const std::vector<std::string>& sentences) {
  return absl::StrCat(kInstruction, absl::StrJoin(sentences, " "), "\n\n");
}

// Puts facts between the filler's sentences, in their order, at distinct places.
std::vector<std::string> Plant(const std::vector<std::string>& facts, std::vector<std::string> filler, Random* random) {
  std::vector<int64_t> places =
      random->Distinct(static_cast<int64_t>(facts.size()), std::max<int64_t>(facts.size(), filler.size() + 1));
  std::sort(places.begin(), places.end());
  for (size_t i = facts.size(); i-- > 0;) {
    const auto place = std::min<int64_t>(places[i], static_cast<int64_t>(filler.size()));
    filler.insert(filler.begin() + place, facts[i]);
  }
  return filler;
}

TaskExample AskForOne(const std::vector<std::string>& sentences, const std::string& key, const std::string& value) {
  TaskExample example;
  example.context = Text(sentences);
  example.question = absl::StrCat("The special magic number for ", key, " is");
  example.answer = absl::StrCat(" ", value, ".");
  example.references = {value};
  return example;
}

}  // namespace

TaskExample NeedleAtDepth(int64_t size, double depth, uint64_t seed) {
  Random random(seed);
  const std::string key = DrawKeys(1, &random)[0], value = DrawValues(1, &random)[0];
  std::vector<std::string> sentences = FillerSentences(&random).Draw(size);
  sentences.insert(sentences.begin() + std::llround(std::clamp(depth, 0.0, 1.0) * static_cast<double>(size)),
                   Fact(key, value));
  return AskForOne(sentences, key, value);
}

TaskExample NeedleTask(int64_t size, uint64_t seed) {
  constexpr int64_t kDepths = 1001;
  return NeedleAtDepth(size, static_cast<double>(Random(~seed).Below(kDepths)) / (kDepths - 1), seed);
}

TaskExample MultiKeyTask(int64_t size, uint64_t seed) {
  Random random(seed);
  const std::vector<std::string> keys = DrawKeys(kNumNeedles, &random), values = DrawValues(kNumNeedles, &random);
  std::vector<std::string> facts;
  for (int64_t i = 0; i < kNumNeedles; ++i) facts.push_back(Fact(keys[i], values[i]));
  const int64_t asked = random.Below(kNumNeedles);
  return AskForOne(Plant(facts, FillerSentences(&random).Draw(size), &random), keys[asked], values[asked]);
}

TaskExample ManyKeysTask(int64_t size, uint64_t seed) {
  Random random(seed);
  const int64_t count = std::min(size + 1, kMaxKeys);
  const std::vector<std::string> keys = DrawKeys(count, &random), values = DrawValues(count, &random);
  std::vector<std::string> facts;
  for (int64_t i = 0; i < count; ++i) facts.push_back(Fact(keys[i], values[i]));
  const int64_t asked = random.Below(count);
  return AskForOne(facts, keys[asked], values[asked]);
}

TaskExample MultiValueTask(int64_t size, uint64_t seed) {
  Random random(seed);
  const std::string key = DrawKeys(1, &random)[0];
  std::vector<std::string> facts, values = DrawValues(kNumNeedles, &random);
  for (const std::string& value : values) {
    facts.push_back(absl::StrCat("One of the special magic numbers for ", key, " is ", value, "."));
  }
  TaskExample example;
  example.context = Text(Plant(facts, FillerSentences(&random).Draw(size), &random));
  example.question = absl::StrCat("In the order of the text, the special magic numbers for ", key, " are");
  example.answer = absl::StrCat(" ", Enumerate(values), ".");
  example.references = std::move(values);
  return example;
}

TaskExample MultiQueryTask(int64_t size, uint64_t seed) {
  Random random(seed);
  const std::vector<std::string> keys = DrawKeys(kNumNeedles, &random);
  std::vector<std::string> facts, values = DrawValues(kNumNeedles, &random);
  for (int64_t i = 0; i < kNumNeedles; ++i) facts.push_back(Fact(keys[i], values[i]));
  random.Shuffle(facts);
  TaskExample example;
  example.context = Text(Plant(facts, FillerSentences(&random).Draw(size), &random));
  example.question = absl::StrCat("The special magic numbers for ", Enumerate(keys), " are, in this order,");
  example.answer = absl::StrCat(" ", Enumerate(values), ".");
  example.references = std::move(values);
  return example;
}

}  // namespace spotlight::training
