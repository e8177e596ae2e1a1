#include "engine/tokenizer/chat_template.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/shim_text.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = 16 << 20;

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be opened"));
  // A folder opens, but has no size.
  const auto num_bytes = static_cast<int64_t>(file.tellg());
  if (num_bytes < 0 || num_bytes == INT64_MAX) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file"));
  if (num_bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", num_bytes, " bytes, over the ", kMaxFileBytes, " that such a file may have"));
  }
  std::string content(static_cast<size_t>(num_bytes), '\0');
  file.seekg(0);
  file.read(content.data(), num_bytes);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return content;
}

absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  absl::StatusOr<std::string> content = ReadFile(path);
  if (!content.ok()) return content.status();
  Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a JSON object"));
  return json;
}

// A special token is a string, or an object whose "content" is one, or null.
absl::StatusOr<std::string> SpecialToken(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object()) {
    const auto content = it->find("content");
    if (content != it->end() && content->is_string()) return content->get<std::string>();
  }
  return absl::InvalidArgumentError(absl::StrCat(key, " is neither a string nor an object with a string content"));
}

// The template's text; empty when `config` has none.
absl::StatusOr<std::string> TemplateSource(const Json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const Json& named : *it) {
      if (!named.is_object()) continue;
      const auto name = named.find("name");
      const auto source = named.find("template");
      if (name == named.end() || *name != "default") continue;
      if (source != named.end() && source->is_string()) return source->get<std::string>();
    }
    return absl::InvalidArgumentError("chat_template is a list without a \"default\"");
  }
  return absl::InvalidArgumentError("chat_template is neither a string nor a list");
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_folder) {
  const std::string config_path = model_folder + "/tokenizer_config.json";
  const std::string template_path = model_folder + "/chat_template.jinja";
  Json config = Json::object();
  if (Exists(config_path)) {
    absl::StatusOr<Json> read = ReadJsonObject(config_path);
    if (!read.ok()) return read.status();
    config = *std::move(read);
  }
  const bool has_template_file = Exists(template_path);
  absl::StatusOr<std::string> source = has_template_file ? ReadFile(template_path) : TemplateSource(config);
  if (!source.ok()) return has_template_file ? source.status() : InFile(config_path, source.status());
  if (source->empty()) return nullptr;
  const absl::StatusOr<std::string> bos = SpecialToken(config, "bos_token");
  if (!bos.ok()) return InFile(config_path, bos.status());
  const absl::StatusOr<std::string> eos = SpecialToken(config, "eos_token");
  if (!eos.ok()) return InFile(config_path, eos.status());
  absl::StatusOr<std::unique_ptr<ChatTemplate>> made = Create(*source, *bos, *eos);
  if (!made.ok()) return InFile(has_template_file ? template_path : config_path, made.status());
  return made;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(absl::string_view source,
                                                                   absl::string_view bos_token,
                                                                   absl::string_view eos_token) {
  TkTemplate* handle = nullptr;
  TkStr error{};
  if (tk_template_new(source.data(), source.size(), bos_token.data(), bos_token.size(), eos_token.data(),
                      eos_token.size(), &handle, &error) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", TakeText(error)));
  }
  return absl::WrapUnique(new ChatTemplate(handle));
}

ChatTemplate::~ChatTemplate() {
  tk_template_free(handle_);
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 bool add_generation_prompt) const {
  std::string json = "[";
  for (size_t i = 0; i < messages.size(); ++i) {
    try {
      const nlohmann::ordered_json message = {{"role", messages[i].role}, {"content", messages[i].content}};
      absl::StrAppend(&json, i == 0 ? "" : ",", message.dump());
    } catch (const Json::exception&) {  // the one thing that a dump of two strings can refuse
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "] is not UTF-8"));
    }
  }
  json += "]";
  TkStr text{};
  TkStr error{};
  if (tk_template_render(handle_, json.data(), json.size(), nullptr, 0, add_generation_prompt, &text, &error) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", TakeText(error)));
  }
  return TakeText(text);
}

}  // namespace spotlight::engine
