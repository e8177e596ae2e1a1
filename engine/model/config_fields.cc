#include "engine/model/config_fields.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {

using nlohmann::json;
namespace {

// Far over what a config nests, far under what recursion over its values would need to exhaust a stack.
constexpr int kMaxDepth = 64;

bool NestsDeeperThan(const std::string& text, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > max_depth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

ConfigFields::ConfigFields(const json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

void ConfigFields::Fail(const std::string& name, const std::string& reason) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(prefix_, name, ": ", reason));
}

const json* ConfigFields::Get(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const json* ConfigFields::GetOrFail(const char* name, bool required) {
  const json* value = Get(name);
  if (value == nullptr && required) Fail(name, "is missing");
  return value;
}

bool ConfigFields::Has(const char* name) const {
  return Get(name) != nullptr;
}

int32_t ConfigFields::CheckedInt(const char* name, const json& value, int32_t min, int32_t max) {
  if (!value.is_number_integer()) {
    Fail(name, absl::StrCat("must be an integer, is ", Shown(value)));
    return min;
  }
  const bool over_int64 = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (over_int64 || value.get<int64_t>() < min || value.get<int64_t>() > max) {
    Fail(name, absl::StrCat("must be in [", min, ", ", max, "], is ", Shown(value)));
    return min;
  }
  return value.get<int32_t>();
}

int32_t ConfigFields::Int(const char* name, int32_t min, int32_t max, absl::optional<int32_t> absent) {
  const json* value = GetOrFail(name, !absent.has_value());
  return value == nullptr ? absent.value_or(min) : CheckedInt(name, *value, min, max);
}

double ConfigFields::Number(const char* name, double min, double max, absl::optional<double> absent, bool min_allowed) {
  const json* value = GetOrFail(name, !absent.has_value());
  if (value == nullptr) return absent.value_or(max);
  if (!value->is_number()) {
    Fail(name, absl::StrCat("must be a number, is ", Shown(*value)));
    return max;
  }
  const auto number = value->get<double>();
  if (!std::isfinite(number) || number > max || number < min || (number == min && !min_allowed)) {
    Fail(name, absl::StrCat("must be in ", min_allowed ? "[" : "(", min, ", ", max, "], is ", Shown(*value)));
    return max;
  }
  return number;
}

bool ConfigFields::Bool(const char* name, bool absent) {
  const json* value = Get(name);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    Fail(name, absl::StrCat("must be true or false, is ", Shown(*value)));
    return absent;
  }
  return value->get<bool>();
}

std::string ConfigFields::String(const char* name, absl::optional<std::string> absent) {
  const json* value = GetOrFail(name, !absent.has_value());
  if (value == nullptr) return absent.value_or("");
  if (!value->is_string()) {
    Fail(name, absl::StrCat("must be a string, is ", Shown(*value)));
    return "";
  }
  return value->get<std::string>();
}

std::vector<std::string> ConfigFields::Strings(const char* name) {
  std::vector<std::string> strings;
  const json* value = Get(name);
  if (value == nullptr) return strings;
  if (!value->is_array()) {
    Fail(name, absl::StrCat("must be a list of strings, is ", Shown(*value)));
    return strings;
  }
  for (const json& item : *value) {
    if (!item.is_string()) {
      Fail(name, absl::StrCat("must be a list of strings, holds ", Shown(item)));
      return strings;
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int32_t> ConfigFields::IntOrInts(const char* name, int32_t min, int32_t max) {
  const json* value = Get(name);
  if (value == nullptr) return {};
  if (!value->is_array()) return {CheckedInt(name, *value, min, max)};
  std::vector<int32_t> ints;
  for (const json& item : *value) ints.push_back(CheckedInt(name, item, min, max));
  return ints;
}

absl::StatusOr<json> ReadJsonObject(const std::string& path, int64_t max_bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  // A folder opens, but has no size.
  const auto num_bytes = static_cast<int64_t>(file.tellg());
  if (num_bytes < 0 || num_bytes == INT64_MAX) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file"));
  if (num_bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", num_bytes, " bytes, over the ", max_bytes, " that such a file may have"));
  }
  std::string text(static_cast<size_t>(num_bytes), '\0');
  file.seekg(0);
  file.read(text.data(), num_bytes);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  if (NestsDeeperThan(text, kMaxDepth)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": nests deeper than ", kMaxDepth, " levels"));
  }
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, ": is not JSON"));
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a JSON object"));
  return value;
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

std::string Shown(const json& value) {
  constexpr size_t kMaxShown = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

}  // namespace spotlight::engine
