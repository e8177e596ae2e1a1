// The flags that say where a prompt comes from, and its reading.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/command_line.h"
#include "client/console.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client {

class PromptSource {
 public:
  // Targets *this, which must outlive the group.
  OptionGroup Options(bool with_token_ids);

  // Sets the request's prompt. INVALID_ARGUMENT unless there is exactly one source and it can be read; CANCELLED when
  // interrupted while reading stdin.
  absl::Status Read(const Console& console, v1::GenerateRequest* request) const;

 private:
  struct Source {
    std::string flag;
    std::string value;
  };

  void Add(std::string flag, std::string value);

  std::vector<Source> sources_;
};

// A file, or stdin when `path` is "-".
absl::Status ReadText(const Console& console, const std::string& path, std::string* text);

// [{"role": "user", "content": "..."}, ...]; INVALID_ARGUMENT says what is wrong with which message.
absl::Status ParseChat(const std::string& json, v1::ChatPrompt* chat);

}  // namespace spotlight::client
