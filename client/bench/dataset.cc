#include "client/bench/dataset.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/utf8.h"
#include "nlohmann/json.hpp"

namespace spotlight::client::bench {
namespace {

using nlohmann::json;

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::StatusOr<std::string> StringAt(const json& record, const char* key) {
  const auto found = record.is_object() ? record.find(key) : record.end();
  if (found == record.end() || !found->is_string()) return Wrong(absl::StrCat("needs a string \"", key, "\""));
  return found->get<std::string>();
}

absl::Status SetMessages(const json& messages, v1::ChatPrompt* chat) {
  if (!messages.is_array() || messages.empty()) return Wrong("\"messages\" must be an array of at least one");
  for (const json& message : messages) {
    auto role = StringAt(message, "role");
    auto content = StringAt(message, "content");
    if (!role.ok()) return role.status();
    if (!content.ok()) return content.status();
    v1::ChatMessage* added = chat->add_messages();
    added->set_role(*std::move(role));
    added->set_content(*std::move(content));
  }
  return absl::OkStatus();
}

absl::Status SetTokenIds(const json& ids, v1::TokenIds* token_ids) {
  if (!ids.is_array() || ids.empty()) return Wrong("\"token_ids\" must be an array of at least one");
  for (const json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return Wrong(absl::StrCat("\"token_ids\" must be ids of 0 or more, got ", id.dump().substr(0, 40)));
    }
    token_ids->add_ids(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status SetConversation(const json& turns, DatasetPrompt* prompt) {
  auto question = StringAt(turns[0], "value");
  auto answer = StringAt(turns[1], "value");
  if (!question.ok()) return question.status();
  if (!answer.ok()) return answer.status();
  prompt->request.set_text(*std::move(question));
  prompt->reference_answer = *std::move(answer);
  return absl::OkStatus();
}

absl::Status SetPrompt(const json& record, DatasetPrompt* prompt) {
  if (record.contains("conversations")) return SetConversation(record["conversations"], prompt);
  if (record.contains("messages")) return SetMessages(record["messages"], prompt->request.mutable_chat());
  if (record.contains("token_ids")) return SetTokenIds(record["token_ids"], prompt->request.mutable_token_ids());
  auto text = StringAt(record, "prompt");
  if (!text.ok()) {
    return Wrong("needs a string \"prompt\", or \"token_ids\", \"messages\" or \"conversations\"");
  }
  prompt->request.set_text(*std::move(text));
  return absl::OkStatus();
}

bool IsTooShort(const json& record) {
  const auto turns = record.is_object() ? record.find("conversations") : record.end();
  return turns != record.end() && turns->is_array() && turns->size() < 2;
}

absl::StatusOr<DatasetPrompt> ToPrompt(const json& record) {
  DatasetPrompt prompt;
  if (absl::Status status = SetPrompt(record, &prompt); !status.ok()) return status;
  for (const char* key : {"output_tokens", "output_len", "max_tokens"}) {
    const auto length = record.find(key);
    if (length == record.end()) continue;
    if (!length->is_number_unsigned() || length->get<uint64_t>() < 1 || length->get<uint64_t>() > INT32_MAX) {
      return Wrong(absl::StrCat("\"", key, "\" must be 1 or more, got ", length->dump().substr(0, 40)));
    }
    prompt.output_tokens = length->get<int32_t>();
  }
  return prompt;
}

absl::Status Add(const json& record, const std::string& where, std::vector<DatasetPrompt>* prompts) {
  if (IsTooShort(record)) return absl::OkStatus();
  absl::StatusOr<DatasetPrompt> prompt = Wrong("not a JSON object");
  try {
    if (record.is_object()) prompt = ToPrompt(record);
  } catch (const json::exception& error) {
    prompt = Wrong(error.what());
  }
  if (!prompt.ok()) return Wrong(absl::StrCat(where, ": ", prompt.status().message()));
  prompts->push_back(*std::move(prompt));
  return absl::OkStatus();
}

absl::Status ParseArray(const std::string& text, size_t max_prompts, std::vector<DatasetPrompt>* prompts) {
  json records;
  try {
    records = json::parse(text);
  } catch (const json::exception& error) {
    return Wrong(error.what());
  }
  for (size_t i = 0; i < records.size() && prompts->size() < max_prompts; ++i) {
    if (absl::Status status = Add(records[i], absl::StrCat("record ", i), prompts); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ParseLines(const std::string& text, bool is_json, size_t max_prompts,
                        std::vector<DatasetPrompt>* prompts) {
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (prompts->size() == max_prompts) break;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    const std::string where = absl::StrCat("line ", number);
    if (!is_json) {
      prompts->emplace_back();
      prompts->back().request.set_text(std::string(line.data(), line.size()));
      continue;
    }
    absl::Status status;
    try {
      status = Add(json::parse(line.begin(), line.end()), where, prompts);
    } catch (const json::exception& error) {
      status = Wrong(absl::StrCat(where, ": ", error.what()));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<DatasetPrompt>> ParseDataset(const std::string& name, const std::string& text,
                                                        size_t max_prompts) {
  if (!IsValidUtf8(text)) return Wrong(absl::StrCat(name, ": not valid UTF-8"));
  const size_t first = text.find_first_not_of(" \t\r\n");
  const char kind = first == std::string::npos ? '\n' : text[first];
  std::vector<DatasetPrompt> prompts;
  const absl::Status status =
      kind == '[' ? ParseArray(text, max_prompts, &prompts) : ParseLines(text, kind == '{', max_prompts, &prompts);
  if (!status.ok()) return Wrong(absl::StrCat(name, ": ", status.message()));
  if (prompts.empty()) return Wrong(absl::StrCat(name, ": holds no prompt"));
  return prompts;
}

}  // namespace spotlight::client::bench
