#include "engine/prompt_encoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/validate_request.h"

namespace spotlight::engine {
namespace {

constexpr size_t kLongPromptBytes = 16 << 10;
constexpr int kNumThreads = 2;

absl::Status WithField(const char* field, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

size_t TextBytes(const Prompt& prompt) {
  size_t num_bytes = 0;
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) num_bytes = text->text.size();
  if (const auto* chat = std::get_if<ChatPrompt>(&prompt)) {
    for (const ChatMessage& message : chat->messages) num_bytes += message.role.size() + message.content.size();
  }
  return num_bytes;
}

}  // namespace

PromptEncoder::PromptEncoder(const Tokenizer* tokenizer, const ChatTemplate* chat_template, int64_t max_prompt_tokens,
                             const WorkBounds& bounds)
    : tokenizer_(tokenizer),
      chat_template_(chat_template),
      max_prompt_tokens_(max_prompt_tokens),
      workers_(kNumThreads, bounds) {}

absl::StatusOr<std::vector<int32_t>> PromptEncoder::Encode(const Prompt& prompt) const {
  if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) return tokens->token_ids;
  const char* const field = PromptField(prompt);
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(field, ": the model has no tokenizer, send token_ids"));
  }
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) {
    return EncodeText(field, text->text, /*add_special_tokens=*/true);
  }
  if (chat_template_ == nullptr) return absl::FailedPreconditionError("chat: the model has no chat template");
  const auto rendered = chat_template_->Render(std::get<ChatPrompt>(prompt).messages, /*add_generation_prompt=*/true);
  if (!rendered.ok()) return WithField(field, rendered.status());
  return EncodeText(field, *rendered, /*add_special_tokens=*/false);
}

absl::Status PromptEncoder::CheckBytes(const char* field, const std::string& text) const {
  const int64_t max_bytes = max_prompt_tokens_ * tokenizer_->max_token_bytes();
  if (static_cast<int64_t>(text.size()) <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": a prompt of ", text.size(), " bytes is over the ", max_bytes,
                                                 " that ", max_prompt_tokens_, " tokens of at most ",
                                                 tokenizer_->max_token_bytes(), " bytes can hold"));
}

absl::Status PromptEncoder::CheckSize(const Prompt& prompt) const {
  const auto* const text = std::get_if<TextPrompt>(&prompt);
  return text == nullptr ? absl::OkStatus() : CheckTextSize(text->text);
}

absl::Status PromptEncoder::CheckTextSize(const std::string& text) const {
  return tokenizer_ == nullptr ? absl::OkStatus() : CheckBytes("text", text);
}

absl::StatusOr<std::vector<int32_t>> PromptEncoder::EncodeText(const char* field, const std::string& text,
                                                               bool add_special_tokens) const {
  if (absl::Status status = CheckBytes(field, text); !status.ok()) return status;
  absl::StatusOr<std::vector<int32_t>> ids = tokenizer_->Encode(text, add_special_tokens);
  if (!ids.ok()) return WithField(field, ids.status());
  return ids;
}

bool PromptEncoder::IsLong(const Prompt& prompt) {
  return TextBytes(prompt) >= kLongPromptBytes;
}

int64_t PromptEncoder::MinTokens(const Prompt& prompt) const {
  if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) return static_cast<int64_t>(tokens->token_ids.size());
  // A chat's template may leave messages out.
  const bool is_text = std::holds_alternative<TextPrompt>(prompt) && tokenizer_ != nullptr;
  return is_text ? static_cast<int64_t>(TextBytes(prompt)) / tokenizer_->max_token_bytes() : 1;
}

absl::Status PromptEncoder::Schedule(const RequestKey& key, const Prompt& prompt, std::function<void()> task) {
  return workers_.Post({key.request_id, key.caller, static_cast<int64_t>(TextBytes(prompt)), std::move(task)});
}

}  // namespace spotlight::engine
