// A conversation: what was said so far, and the commands typed in between.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client {

enum class ChatInput { kMessage, kEmpty, kReset, kExit, kHelp, kUnknown };

// What a typed line asks for. A message that begins with a slash is typed with two.
ChatInput ClassifyChatInput(absl::string_view line);

// Thread-compatible.
class ChatSession {
 public:
  // `base` carries the sampling, stopping and retrieval of every turn; `system` may be empty.
  ChatSession(v1::GenerateRequest base, std::string system);

  // The request for one more user message. The history takes it up with FinishTurn.
  v1::GenerateRequest NextRequest(absl::string_view line) const;

  // Keeps the turn if anything was answered, also when the answer was cut short: the user has read it.
  void FinishTurn(absl::string_view line, std::string answer);

  void Reset();

 private:
  v1::GenerateRequest base_;
  std::string system_;
};

}  // namespace spotlight::client
