#include "engine/tokenizer/tokenizer.h"

#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/shim_text.h"

namespace spotlight::engine {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  TkTokenizer* handle = nullptr;
  TkStr error{};
  if (tk_load(path.data(), path.size(), &handle, &error) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", TakeText(error)));
  }
  auto tokenizer = absl::WrapUnique(new Tokenizer(handle));
  if (tokenizer->max_token_bytes() < 1) return absl::InvalidArgumentError(absl::StrCat(path, ": has no vocabulary"));
  return tokenizer;
}

Tokenizer::Tokenizer(TkTokenizer* handle)
    : handle_(handle), max_token_bytes_(static_cast<int32_t>(tk_max_token_bytes(handle))) {}

Tokenizer::~Tokenizer() {
  tk_free(handle_);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text, bool add_special_tokens) const {
  TkIds ids{};
  TkStr error{};
  if (tk_encode(handle_, text.data(), text.size(), add_special_tokens, &ids, &error) != 0) {
    return absl::InvalidArgumentError(TakeText(error));
  }
  std::vector<int32_t> out(ids.data, ids.data + ids.len);
  tk_ids_free(ids);
  return out;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> token_ids, bool skip_special_tokens) const {
  TkStr text{};
  TkStr error{};
  // A negative id reads as one far beyond any vocabulary.
  const auto* ids = reinterpret_cast<const uint32_t*>(token_ids.data());
  if (tk_decode(handle_, ids, token_ids.size(), skip_special_tokens, &text, &error) != 0) {
    return absl::InternalError(absl::StrCat("cannot decode ", token_ids.size(), " token ids: ", TakeText(error)));
  }
  return TakeText(text);
}

absl::optional<int32_t> Tokenizer::TokenId(absl::string_view token) const {
  const int64_t id = tk_token_to_id(handle_, token.data(), token.size());
  if (id < 0) return absl::nullopt;
  return static_cast<int32_t>(id);
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(tk_vocab_size(handle_));
}

absl::StatusOr<std::unique_ptr<DecodeStream>> DecodeStream::Create(const Tokenizer& tokenizer,
                                                                   bool skip_special_tokens) {
  TkStream* handle = nullptr;
  TkStr error{};
  if (tk_stream_new(tokenizer.handle_, skip_special_tokens, &handle, &error) != 0) {
    return absl::InternalError(absl::StrCat("cannot start a decode stream: ", TakeText(error)));
  }
  return absl::WrapUnique(new DecodeStream(handle));
}

DecodeStream::~DecodeStream() {
  tk_stream_free(handle_);
}

absl::StatusOr<std::string> DecodeStream::Step(int32_t token_id) {
  TkStr text{};
  TkStr error{};
  if (tk_stream_step(handle_, static_cast<uint32_t>(token_id), &text, &error) != 0) {
    return absl::InternalError(absl::StrCat("cannot decode token id ", token_id, ": ", TakeText(error)));
  }
  return TakeText(text);
}

absl::StatusOr<std::string> DecodeStream::Flush() {
  TkStr text{};
  TkStr error{};
  if (tk_stream_flush(handle_, &text, &error) != 0) {
    return absl::InternalError(absl::StrCat("cannot decode the end of the stream: ", TakeText(error)));
  }
  return TakeText(text);
}

}  // namespace spotlight::engine
