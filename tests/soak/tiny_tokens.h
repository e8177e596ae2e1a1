// What the soak knows of the tiny test model's tokens. A larger model under soak has its tokenizer and generation
// config.
#pragma once

#include <cstdint>

namespace spotlight::soak {

constexpr int32_t kVocabularySize = 508;  // without its special tokens

// Ids 0 to 93 are the characters '!' to '~', one each.
constexpr int32_t kNumCharacters = 94;
constexpr char CharacterOf(int32_t id) {
  return static_cast<char>('!' + id);
}

constexpr int32_t kEndsOfSequence[] = {509, 511};

}  // namespace spotlight::soak
