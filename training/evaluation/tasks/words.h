// Words that generated texts are made of. No torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "training/evaluation/tasks/random.h"

namespace spotlight::training {

// Sentences of everyday life without numbers, no two alike in one text (there are some 400,000).
class FillerSentences {
 public:
  explicit FillerSentences(Random* random) : random_(random) {}
  std::vector<std::string> Draw(int64_t count);

 private:
  Random* const random_;
};

// Keys of facts, "brave amber falcon", distinct. There are kMaxKeys.
inline constexpr int64_t kMaxKeys = 60000;
std::vector<std::string> DrawKeys(int64_t count, Random* random);

// Five-digit numbers, distinct. There are kMaxValues.
inline constexpr int64_t kMaxValues = 80000;
std::vector<std::string> DrawValues(int64_t count, Random* random);

// Variable names, three capital consonants, distinct. There are 8,000.
std::vector<std::string> DrawVariableNames(int64_t count, Random* random);

// Nouns, distinct, none part of another. When they run out (at 168) pairs of them with a hyphen, kMaxNouns in all; the
// first 84 are in no pair.
inline constexpr int64_t kMaxNouns = 7000;
std::vector<std::string> DrawNouns(int64_t count, Random* random);

// Words of three made-up syllables, distinct.
std::vector<std::string> DrawMadeUpWords(int64_t count, Random* random);

// "a", "a and b", "a, b, and c".
std::string Enumerate(const std::vector<std::string>& items);

}  // namespace spotlight::training
