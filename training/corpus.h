// Token sequences of one length, cut from texts: those that are trained on, and a few that never are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/tokenizer/tokenizer.h"
#include "training/text_files.h"

namespace spotlight::training {

struct Corpus {
  // Each of tokens_per_sequence ids.
  std::vector<std::vector<int32_t>> train, heldout;
  int64_t num_tokens = 0;          // of the text, before it was cut
  int64_t num_dropped_tokens = 0;  // at its end, shorter than a sequence
  std::string sha256;              // of the texts, a NUL byte between documents
};

// What the tokenizer puts before a text: a BOS, where the model has one.
absl::StatusOr<std::vector<int32_t>> TokensBeforeText(const engine::Tokenizer& tokenizer);

// Documents follow each other, the model's end-of-text token between them (a blank line where it has none), and the
// whole is cut every `tokens_per_sequence` tokens: small files share a sequence. Each sequence begins with the tokens
// that the tokenizer puts before a text (a BOS, where the model has one). Of n sequences 1 (n < 8), 2 (n < 40) or 4 are
// held out, evenly spread. INVALID_ARGUMENT: text that makes fewer than two sequences (with both numbers), or that the
// tokenizer refuses (with its file).
absl::StatusOr<Corpus> MakeCorpus(const TextFiles& files, const engine::Tokenizer& tokenizer,
                                  const engine::ModelConfig& config, int32_t tokens_per_sequence);

// Token ids drawn at random, for measuring cost.
Corpus RandomCorpus(int32_t vocab_size, int32_t tokens_per_sequence, int64_t num_sequences, uint64_t seed);

// Leaves `max_sequences` to train on, evenly spread; 0: all.
void LimitSequences(int64_t max_sequences, Corpus& corpus);

// The sequence to train on at `step`: each of `num_sequences` once in an order drawn from the seed, then once again in
// another one.
class SequenceOrder {
 public:
  SequenceOrder(int64_t num_sequences, uint64_t seed);
  int64_t At(int64_t step);

 private:
  const uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace spotlight::training
