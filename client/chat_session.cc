#include "client/chat_session.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace spotlight::client {
namespace {

void Add(v1::GenerateRequest* request, absl::string_view role, absl::string_view content) {
  v1::ChatMessage* message = request->mutable_chat()->add_messages();
  message->set_role(std::string(role));
  message->set_content(std::string(content));
}

absl::string_view Content(absl::string_view line) {
  return absl::StartsWith(line, "//") ? line.substr(1) : line;
}

}  // namespace

ChatInput ClassifyChatInput(absl::string_view line) {
  line = absl::StripAsciiWhitespace(line);
  if (line.empty()) return ChatInput::kEmpty;
  if (line[0] != '/' || absl::StartsWith(line, "//")) return ChatInput::kMessage;
  if (line == "/reset") return ChatInput::kReset;
  if (line == "/exit") return ChatInput::kExit;
  return line == "/help" ? ChatInput::kHelp : ChatInput::kUnknown;
}

ChatSession::ChatSession(v1::GenerateRequest base, std::string system)
    : base_(std::move(base)), system_(std::move(system)) {
  Reset();
}

v1::GenerateRequest ChatSession::NextRequest(absl::string_view line) const {
  v1::GenerateRequest request = base_;
  Add(&request, "user", Content(line));
  return request;
}

void ChatSession::FinishTurn(absl::string_view line, std::string answer) {
  if (answer.empty()) return;
  Add(&base_, "user", Content(line));
  Add(&base_, "assistant", answer);
}

void ChatSession::Reset() {
  base_.mutable_chat()->clear_messages();
  if (!system_.empty()) Add(&base_, "system", system_);
}

}  // namespace spotlight::client
