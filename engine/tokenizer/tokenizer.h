// Text to token ids and back, as the checkpoint's tokenizer.json says (the `tokenizers` crate behind a C ABI).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

struct TkTokenizer;
struct TkStream;

namespace spotlight::engine {

// Thread-safe: immutable once loaded.
class Tokenizer {
 public:
  // NOT_FOUND or INVALID_ARGUMENT with the path and the reason.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT when `text` is not UTF-8 or has more than 500,000 white space characters in a row. Special tokens
  // in the text become their ids; `add_special_tokens` adds what the tokenizer's post-processor adds (a BOS, where the
  // model has one).
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool add_special_tokens) const;
  // Bytes that form no character come out as U+FFFD; ids outside the vocabulary have no text.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> token_ids, bool skip_special_tokens) const;
  absl::optional<int32_t> TokenId(absl::string_view token) const;
  // Entries, added tokens included. A model's embedding may have more rows.
  int32_t vocab_size() const;
  // Of the longest entry, added tokens included: n tokens stand for no more than n times as many bytes of text. What a
  // normaliser deletes is not counted.
  int32_t max_token_bytes() const { return max_token_bytes_; }

 private:
  friend class DecodeStream;
  explicit Tokenizer(TkTokenizer* handle);
  TkTokenizer* const handle_;
  const int32_t max_token_bytes_;
};

// Text of one sequence as its tokens come. Never gives out part of a character. Thread-compatible; outlived by nothing:
// it shares the tokenizer's data.
class DecodeStream {
 public:
  static absl::StatusOr<std::unique_ptr<DecodeStream>> Create(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~DecodeStream();
  DecodeStream(const DecodeStream&) = delete;
  DecodeStream& operator=(const DecodeStream&) = delete;

  // Empty while a character is unfinished.
  absl::StatusOr<std::string> Step(int32_t token_id);
  // What is held back at the end; an unfinished character reads U+FFFD.
  absl::StatusOr<std::string> Flush();

 private:
  explicit DecodeStream(TkStream* handle) : handle_(handle) {}
  TkStream* handle_;
};

}  // namespace spotlight::engine
