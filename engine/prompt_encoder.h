// Prompts to token ids: chat templates rendered, text tokenised; long prompts on a thread of their own.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "engine/mutex.h"
#include "engine/request.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

// Thread-safe.
class PromptEncoder {
 public:
  // `chat_template` may be null. Both outlive the encoder.
  PromptEncoder(const Tokenizer* tokenizer, const ChatTemplate* chat_template);
  // Runs the tasks that are left, then joins.
  ~PromptEncoder();
  PromptEncoder(const PromptEncoder&) = delete;
  PromptEncoder& operator=(const PromptEncoder&) = delete;

  // Token ids as the model is to read them: text with the tokenizer's special tokens added, a chat rendered with the
  // generation prompt and nothing added (the template writes its own), token ids as they are. INVALID_ARGUMENT begins
  // with the field; FAILED_PRECONDITION: a chat, and the model has no template.
  absl::StatusOr<std::vector<int32_t>> Encode(const Prompt& prompt) const;

  // Whether a prompt takes long enough (milliseconds) not to be encoded on the thread of an RPC.
  static bool IsLong(const Prompt& prompt);

  // Runs `task` on one of the encoder's threads, in order of the calls. Not after the destructor has begun.
  void Schedule(std::function<void()> task);

 private:
  void RunTasks();

  const Tokenizer* const tokenizer_;
  const ChatTemplate* const chat_template_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace spotlight::engine
