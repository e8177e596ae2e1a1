#include "training/corpus.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "engine/model/sha256.h"

namespace spotlight::training {
namespace {

// What pre-training puts between documents, by family; a chat model's own end-of-sequence tokens may be others.
constexpr const char* kEndOfText[] = {"<|endoftext|>", "<|end_of_text|>", "</s>"};

absl::StatusOr<std::vector<int32_t>> Separator(const engine::Tokenizer& tokenizer, const engine::ModelConfig& config) {
  for (const char* token : kEndOfText) {
    if (const absl::optional<int32_t> id = tokenizer.TokenId(token)) return std::vector<int32_t>{*id};
  }
  if (!config.eos_token_ids.empty()) return std::vector<int32_t>{config.eos_token_ids.front()};
  return tokenizer.Encode("\n\n", /*add_special_tokens=*/false);
}

struct TokenStream {
  std::vector<int32_t> ids;
  std::string sha256;
};

absl::StatusOr<TokenStream> Encode(const TextFiles& files, const engine::Tokenizer& tokenizer,
                                   const engine::ModelConfig& config) {
  const auto separator = Separator(tokenizer, config);
  if (!separator.ok()) return separator.status();
  TokenStream stream;
  engine::Sha256 sha256;
  for (const TextPiece& piece : files.pieces) {
    if (piece.begins_document && !stream.ids.empty()) {
      stream.ids.insert(stream.ids.end(), separator->begin(), separator->end());
      sha256.Add("", 1);
    }
    sha256.Add(piece.text.data(), piece.text.size());
    const auto ids = tokenizer.Encode(piece.text, /*add_special_tokens=*/false);
    if (!ids.ok()) return absl::InvalidArgumentError(absl::StrCat(piece.path, ": ", ids.status().message()));
    stream.ids.insert(stream.ids.end(), ids->begin(), ids->end());
  }
  stream.sha256 = sha256.Hex();
  return stream;
}

int64_t NumHeldOut(int64_t num_sequences) {
  return num_sequences < 8 ? 1 : num_sequences < 40 ? 2 : 4;
}

// Whether `index` is one of `count` places spread evenly over [0, total).
bool IsSpread(int64_t index, int64_t count, int64_t total) {
  return (index + 1) * count / total > index * count / total;
}

void HoldOut(std::vector<std::vector<int32_t>> sequences, Corpus& corpus) {
  const auto total = static_cast<int64_t>(sequences.size());
  for (int64_t i = 0; i < total; ++i) {
    auto& part = IsSpread((i + total / 2) % total, NumHeldOut(total), total) ? corpus.heldout : corpus.train;
    part.push_back(std::move(sequences[i]));
  }
}

// The same on every machine, which std::shuffle and std::uniform_int_distribution are not.
uint64_t Below(uint64_t bound, std::mt19937_64& random) {
  return random() % bound;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokensBeforeText(const engine::Tokenizer& tokenizer) {
  auto with = tokenizer.Encode("a", /*add_special_tokens=*/true);
  if (!with.ok()) return with;
  const auto plain = tokenizer.Encode("a", /*add_special_tokens=*/false);
  if (!plain.ok()) return plain;
  with->erase(std::search(with->begin(), with->end(), plain->begin(), plain->end()), with->end());
  return with;
}

absl::StatusOr<Corpus> MakeCorpus(const TextFiles& files, const engine::Tokenizer& tokenizer,
                                  const engine::ModelConfig& config, int32_t tokens_per_sequence) {
  auto stream = Encode(files, tokenizer, config);
  if (!stream.ok()) return stream.status();
  const auto prefix = TokensBeforeText(tokenizer);
  if (!prefix.ok()) return prefix.status();
  Corpus corpus;
  corpus.sha256 = stream->sha256;
  corpus.num_tokens = static_cast<int64_t>(stream->ids.size());
  const int64_t body = tokens_per_sequence - static_cast<int64_t>(prefix->size());
  const int64_t num_sequences = corpus.num_tokens / body;
  if (num_sequences < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the text has ", corpus.num_tokens, " tokens, and training needs at least ", 2 * body, ": two sequences of ",
        tokens_per_sequence, " tokens, of which one is held out (--tokens-per-sequence)"));
  }
  corpus.num_dropped_tokens = corpus.num_tokens % body;
  std::vector<std::vector<int32_t>> sequences(num_sequences, *prefix);
  for (int64_t i = 0; i < num_sequences; ++i) {
    const auto begin = stream->ids.begin() + i * body;
    sequences[i].insert(sequences[i].end(), begin, begin + body);
  }
  for (const int32_t id : stream->ids) {
    if (id >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer.json has token ", id, ", which is outside the model's vocabulary of ", config.vocab_size));
    }
  }
  HoldOut(std::move(sequences), corpus);
  return corpus;
}

Corpus RandomCorpus(int32_t vocab_size, int32_t tokens_per_sequence, int64_t num_sequences, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<int32_t>> sequences(num_sequences, std::vector<int32_t>(tokens_per_sequence));
  for (std::vector<int32_t>& sequence : sequences) {
    for (int32_t& id : sequence) id = static_cast<int32_t>(Below(vocab_size, random));
  }
  Corpus corpus;
  corpus.num_tokens = num_sequences * tokens_per_sequence;
  const std::string name = absl::StrCat("random tokens, seed ", seed);
  engine::Sha256 sha256;
  sha256.Add(name.data(), name.size());
  corpus.sha256 = sha256.Hex();
  HoldOut(std::move(sequences), corpus);
  return corpus;
}

void LimitSequences(int64_t max_sequences, Corpus& corpus) {
  const auto total = static_cast<int64_t>(corpus.train.size());
  if (max_sequences == 0 || total <= max_sequences) return;
  std::vector<std::vector<int32_t>> kept;
  for (int64_t i = 0; i < total; ++i) {
    if (IsSpread(i, max_sequences, total)) kept.push_back(std::move(corpus.train[i]));
  }
  corpus.train = std::move(kept);
}

SequenceOrder::SequenceOrder(int64_t num_sequences, uint64_t seed) : seed_(seed), order_(num_sequences) {}

int64_t SequenceOrder::At(int64_t step) {
  const auto num_sequences = static_cast<int64_t>(order_.size());
  if (step / num_sequences != epoch_) {
    epoch_ = step / num_sequences;
    std::iota(order_.begin(), order_.end(), 0);
    std::seed_seq seeds = {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32),
                           static_cast<uint32_t>(epoch_)};
    std::mt19937_64 random(seeds);
    for (int64_t i = num_sequences - 1; i > 0; --i) std::swap(order_[i], order_[Below(i + 1, random)]);
  }
  return order_[step % num_sequences];
}

}  // namespace spotlight::training
