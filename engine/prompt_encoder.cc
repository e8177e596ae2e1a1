#include "engine/prompt_encoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/validate_request.h"

namespace spotlight::engine {
namespace {

constexpr size_t kLongPromptBytes = 16 << 10;
constexpr int kNumThreads = 2;

absl::Status WithField(const Prompt& prompt, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(PromptField(prompt), ": ", status.message()));
}

}  // namespace

PromptEncoder::PromptEncoder(const Tokenizer* tokenizer, const ChatTemplate* chat_template)
    : tokenizer_(tokenizer), chat_template_(chat_template) {
  for (int i = 0; i < kNumThreads; ++i) threads_.emplace_back([this] { RunTasks(); });
}

PromptEncoder::~PromptEncoder() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::StatusOr<std::vector<int32_t>> PromptEncoder::Encode(const Prompt& prompt) const {
  if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) return tokens->token_ids;
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(PromptField(prompt), ": the model has no tokenizer, send token_ids"));
  }
  absl::StatusOr<std::vector<int32_t>> ids;
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) {
    ids = tokenizer_->Encode(text->text, /*add_special_tokens=*/true);
  } else {
    if (chat_template_ == nullptr) return absl::FailedPreconditionError("chat: the model has no chat template");
    const auto rendered = chat_template_->Render(std::get<ChatPrompt>(prompt).messages, /*add_generation_prompt=*/true);
    if (!rendered.ok()) return WithField(prompt, rendered.status());
    ids = tokenizer_->Encode(*rendered, /*add_special_tokens=*/false);
  }
  if (!ids.ok()) return WithField(prompt, ids.status());
  return ids;
}

bool PromptEncoder::IsLong(const Prompt& prompt) {
  size_t num_bytes = 0;
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) num_bytes = text->text.size();
  if (const auto* chat = std::get_if<ChatPrompt>(&prompt)) {
    for (const ChatMessage& message : chat->messages) num_bytes += message.role.size() + message.content.size();
  }
  return num_bytes >= kLongPromptBytes;
}

void PromptEncoder::Schedule(std::function<void()> task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  changed_.NotifyOne();
}

void PromptEncoder::RunTasks() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      while (!stopping_ && tasks_.empty()) changed_.Wait(&mutex_);
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace spotlight::engine
