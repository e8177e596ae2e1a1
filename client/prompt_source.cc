#include "client/prompt_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/utf8.h"
#include "nlohmann/json.hpp"

namespace spotlight::client {
namespace {

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

}  // namespace

void PromptSource::Add(std::string flag, std::string value) {
  for (Source& source : sources_) {
    if (source.flag == flag) {
      source.value = std::move(value);
      return;
    }
  }
  sources_.push_back({std::move(flag), std::move(value)});
}

OptionGroup PromptSource::Options(bool with_token_ids) {
  OptionGroup group{
      "Prompt (one of; - reads stdin)",
      {Text("prompt", "TEXT", "the text itself", [this](std::string value) { Add("prompt", std::move(value)); }),
       Text("prompt-file", "FILE", "the text in a file; one newline at the end is dropped",
            [this](std::string value) { Add("prompt-file", std::move(value)); }),
       Text("chat-file", "FILE",
            "a JSON array of {\"role\": ..., \"content\": ...}, rendered with the model's chat template",
            [this](std::string value) { Add("chat-file", std::move(value)); })}};
  if (with_token_ids) {
    group.options.push_back(Text("token-ids", "ID,ID,...", "token ids, used as they are",
                                 [this](std::string value) { Add("token-ids", std::move(value)); }));
  }
  return group;
}

absl::Status PromptSource::Read(const Console& console, v1::GenerateRequest* request) const {
  if (sources_.empty()) return Wrong("no prompt; see --help for the flags that give one");
  if (sources_.size() > 1) {
    return Wrong(absl::StrCat("--", sources_[0].flag, " and --", sources_[1].flag, " cannot go together"));
  }
  const std::string& flag = sources_[0].flag;
  const std::string& value = sources_[0].value;
  if (flag == "prompt" && value != "-") {
    request->set_text(value);
    return absl::OkStatus();
  }
  std::string text = value;
  if (flag != "token-ids" || value == "-") {
    const absl::Status status = ReadText(console, value, &text);
    if (!status.ok()) return status;
  }
  if (flag == "token-ids") {
    const absl::Status status =
        ParseTokenIds(text, [request](int32_t id) { request->mutable_token_ids()->add_ids(id); });
    return status.ok() ? status : Wrong(absl::StrCat("--token-ids ", status.message()));
  }
  if (flag == "chat-file") {
    const absl::Status status = ParseChat(text, request->mutable_chat());
    return status.ok() ? status : Wrong(absl::StrCat("--chat-file ", value, ": ", status.message()));
  }
  if (!IsValidUtf8(text)) return Wrong(absl::StrCat("--", flag, " ", value, ": not valid UTF-8"));
  if (!text.empty() && text.back() == '\n') text.pop_back();
  request->set_text(std::move(text));
  return absl::OkStatus();
}

absl::Status ReadText(const Console& console, const std::string& path, std::string* text) {
  const bool from_stdin = path == "-";
  const int fd = from_stdin ? console.in_fd : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Wrong(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  if (from_stdin && console.in_is_terminal) *console.err << "(reading from the terminal; Ctrl-D ends)" << std::endl;
  InputReader reader(fd, console.interrupts);
  const ReadResult result = reader.ReadAll(text);
  const int error = errno;
  if (!from_stdin) close(fd);
  if (result == ReadResult::kInterrupted) return absl::CancelledError("interrupted");
  if (result == ReadResult::kFailed) return Wrong(absl::StrCat("cannot read ", path, ": ", strerror(error)));
  return absl::OkStatus();
}

absl::Status ParseChat(const std::string& json, v1::ChatPrompt* chat) {
  nlohmann::json messages;
  try {
    messages = nlohmann::json::parse(json);
  } catch (const nlohmann::json::exception& error) {
    return Wrong(error.what());
  }
  if (!messages.is_array() || messages.empty()) return Wrong("must be a JSON array of at least one message");
  for (size_t i = 0; i < messages.size(); ++i) {
    v1::ChatMessage* message = chat->add_messages();
    for (const char* key : {"role", "content"}) {
      const auto found = messages[i].is_object() ? messages[i].find(key) : messages[i].end();
      if (found == messages[i].end() || !found->is_string()) {
        return Wrong(absl::StrCat("message ", i, " needs a string \"", key, "\""));
      }
    }
    message->set_role(messages[i]["role"].get<std::string>());
    message->set_content(messages[i]["content"].get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace spotlight::client
