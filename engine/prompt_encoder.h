// Prompts to token ids: chat templates rendered, text tokenised; long prompts on a thread of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/fair_workers.h"
#include "engine/request.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

// Thread-safe.
class PromptEncoder {
 public:
  // Both pointers may be null, and outlive the encoder. Text that `max_prompt_tokens` tokens cannot spell is refused
  // before it is tokenised.
  PromptEncoder(const Tokenizer* tokenizer, const ChatTemplate* chat_template, int64_t max_prompt_tokens,
                const WorkBounds& bounds = WorkBounds());  // of what waits for a thread

  // Token ids as the model is to read them: text with the tokenizer's special tokens added, a chat rendered with the
  // generation prompt and nothing added (the template writes its own), token ids as they are. INVALID_ARGUMENT begins
  // with the field; FAILED_PRECONDITION: a chat, and the model has no template, or no tokenizer.
  absl::StatusOr<std::vector<int32_t>> Encode(const Prompt& prompt) const;

  // Whether a prompt takes long enough (milliseconds) not to be encoded on the thread of an RPC.
  static bool IsLong(const Prompt& prompt);

  // INVALID_ARGUMENT for a text of more bytes than a prompt's tokens can stand for, at once.
  absl::Status CheckSize(const Prompt& prompt) const;
  absl::Status CheckTextSize(const std::string& text) const;  // of a TextPrompt

  // No encoding of the prompt has fewer tokens.
  int64_t MinTokens(const Prompt& prompt) const;

  // Runs `task`, which will encode `prompt`, on one of the encoder's threads, in turn with other callers' tasks.
  // RESOURCE_EXHAUSTED: as many wait as may (fair_workers.h). Not after Stop.
  absl::Status Schedule(const RequestKey& key, const Prompt& prompt, std::function<void()> task);
  // Takes back the request's task where no thread has begun it, for the caller to run; else null.
  std::function<void()> Withdraw(const RequestKey& key) { return workers_.Withdraw(key.caller, key.request_id); }
  // Runs the tasks that are left, then joins. Encode still works.
  void Stop() { workers_.Stop(); }

 private:
  absl::Status CheckBytes(const char* field, const std::string& text) const;
  absl::StatusOr<std::vector<int32_t>> EncodeText(const char* field, const std::string& text,
                                                  bool add_special_tokens) const;

  const Tokenizer* const tokenizer_;
  const ChatTemplate* const chat_template_;
  const int64_t max_prompt_tokens_;
  FairWorkers workers_;
};

}  // namespace spotlight::engine
