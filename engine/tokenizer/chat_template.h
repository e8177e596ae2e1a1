// Renders chat messages to a prompt as transformers does (the `minijinja` crate behind a C ABI).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/request.h"

struct TkTemplate;

namespace spotlight::engine {

// Thread-safe: immutable once made.
class ChatTemplate {
 public:
  // From a checkpoint folder: chat_template.jinja, else tokenizer_config.json's chat_template (a string, or a list of
  // which "default" is taken), with its bos_token and eos_token. Null when the checkpoint has none; INVALID_ARGUMENT
  // with the file and the reason when it has one that cannot be parsed.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_folder);
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(absl::string_view source, absl::string_view bos_token,
                                                              absl::string_view eos_token);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // INVALID_ARGUMENT with the template's own message when it refuses the messages (raise_exception).
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

 private:
  explicit ChatTemplate(TkTemplate* handle) : handle_(handle) {}
  TkTemplate* handle_;
};

}  // namespace spotlight::engine
