#include "server/security/token_file.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/request.h"
#include "nlohmann/json.hpp"

namespace spotlight::server {
namespace {

using Json = nlohmann::json;

// Each call compares its token with all of them.
constexpr size_t kMaxDigests = 4096;
constexpr size_t kMaxNameBytes = 64;
constexpr double kMaxRate = 1e9;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::Status CheckFields(const Json& object, std::initializer_list<absl::string_view> known) {
  for (const auto& field : object.items()) {
    if (std::find(known.begin(), known.end(), field.key()) != known.end()) continue;
    // The likely mistake, whose value is a secret. Other names are not quoted either: they may be misplaced ones.
    if (field.key() == "token") return Bad("token: a token itself is not accepted here, only its sha256");
    std::string fields;
    for (const absl::string_view name : known) absl::StrAppend(&fields, fields.empty() ? "" : ", ", name);
    return Bad(absl::StrCat("has a field that is none of ", fields));
  }
  return absl::OkStatus();
}

absl::Status ReadName(const Json& entry, std::string* name) {
  const auto found = entry.find("name");
  if (found == entry.end() || !found->is_string()) return Bad("name: must be a string and must be given");
  *name = found->get<std::string>();
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; };
  if (name->empty() || name->size() > kMaxNameBytes || !std::all_of(name->begin(), name->end(), allowed)) {
    return Bad(absl::StrCat("name: must be 1 to ", kMaxNameBytes, " of A-Z a-z 0-9 - _ ."));
  }
  return absl::OkStatus();
}

absl::Status ReadDigest(const Json& value, std::vector<Sha256Digest>* digests) {
  constexpr char kWanted[] = "sha256: must be 64 hexadecimal digits, or a list of such";
  if (!value.is_string()) return Bad(kWanted);
  const std::string& hex = value.get_ref<const std::string&>();
  Sha256Digest digest;
  if (hex.size() != 2 * digest.size() || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit)) {
    return Bad(kWanted);
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  digests->push_back(digest);
  return absl::OkStatus();
}

absl::Status ReadDigests(const Json& entry, std::vector<Sha256Digest>* digests) {
  const auto found = entry.find("sha256");
  if (found == entry.end()) return Bad("sha256: must be given");
  if (!found->is_array()) return ReadDigest(*found, digests);
  for (const Json& value : *found) {
    if (absl::Status status = ReadDigest(value, digests); !status.ok()) return status;
  }
  return digests->empty() ? Bad("sha256: must list at least one") : absl::OkStatus();
}

absl::Status ReadScopes(const Json& entry, Caller* caller) {
  caller->is_identified = true;
  caller->may_generate = caller->may_admin = false;
  const auto found = entry.find("scopes");
  const bool listed = found != entry.end() && found->is_array() && !found->empty();
  const auto unknown = [](const Json& scope) { return scope != "generate" && scope != "admin"; };
  if (!listed || std::any_of(found->begin(), found->end(), unknown)) {
    return Bad("scopes: must be a list of \"generate\", \"admin\" or both");
  }
  for (const Json& scope : *found) (scope == "admin" ? caller->may_admin : caller->may_generate) = true;
  return absl::OkStatus();
}

absl::Status ReadCount(const Json& entry, const char* field, int32_t* count) {
  const auto found = entry.find(field);
  if (found == entry.end()) return absl::OkStatus();
  if (!found->is_number_integer() || *found < 1 || *found > 1000000) {
    return Bad(absl::StrCat(field, ": must be a whole number of 1 to 1000000"));
  }
  *count = found->get<int32_t>();
  return absl::OkStatus();
}

absl::Status ReadLimits(const Json& entry, CallerLimits* limits) {
  if (const auto rate = entry.find("requests_per_minute"); rate != entry.end()) {
    if (!rate->is_number() || !(*rate > 0) || !(*rate <= kMaxRate)) {
      return Bad(absl::StrCat("requests_per_minute: must be a number above 0 and at most ", kMaxRate));
    }
    limits->requests_per_minute = rate->get<double>();
    // A minute's worth, unless it is told.
    limits->burst = static_cast<int32_t>(std::clamp(std::ceil(limits->requests_per_minute), 1.0, 1e6));
  } else if (entry.contains("burst")) {
    return Bad("burst: needs requests_per_minute");
  }
  const absl::Status status = ReadCount(entry, "burst", &limits->burst);
  return status.ok() ? ReadCount(entry, "max_concurrent", &limits->max_concurrent) : status;
}

absl::Status ReadMaxPriority(const Json& entry, Caller* caller) {
  caller->max_priority = 0;
  const auto found = entry.find("max_priority");
  if (found == entry.end()) return absl::OkStatus();
  // As a double: nlohmann takes 2^64 - 1 for -1.
  const double priority = found->is_number_integer() ? found->get<double>() : NAN;
  if (!(priority >= engine::kLowestPriority && priority <= engine::kHighestPriority)) {
    return Bad(absl::StrCat("max_priority: must be a whole number of ", engine::kLowestPriority, " to ",
                            engine::kHighestPriority));
  }
  caller->max_priority = static_cast<int32_t>(priority);
  return absl::OkStatus();
}

absl::Status ReadEntry(const Json& json, TokenEntry* entry) {
  if (!json.is_object()) return Bad("name: must be given, in an object");
  const absl::Status name = ReadName(json, &entry->caller.name);
  if (!name.ok()) return name;
  for (const absl::Status& status : {CheckFields(json, {"name", "sha256", "scopes", "requests_per_minute", "burst",
                                                        "max_concurrent", "max_priority"}),
                                     ReadDigests(json, &entry->digests), ReadScopes(json, &entry->caller),
                                     ReadLimits(json, &entry->limits), ReadMaxPriority(json, &entry->caller)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenEntry>> Parse(const std::string& text) {
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return Bad("is not JSON");
  if (!root.is_object() || !root.contains("tokens")) return Bad("must be {\"tokens\": [...]}");
  if (absl::Status status = CheckFields(root, {"tokens"}); !status.ok()) return status;
  const Json& list = root["tokens"];
  if (!list.is_array() || list.empty()) return Bad("tokens: must list at least one");
  std::vector<TokenEntry> entries;
  std::set<std::string> names;
  std::set<Sha256Digest> digests;
  for (size_t i = 0; i < list.size(); ++i) {
    TokenEntry entry;
    const std::string where = absl::StrCat("tokens[", i, "]");
    if (absl::Status status = ReadEntry(list[i], &entry); !status.ok()) {
      return Bad(absl::StrCat(where, ".", status.message()));
    }
    if (!names.insert(entry.caller.name).second) return Bad(absl::StrCat(where, ".name: is another's as well"));
    for (const Sha256Digest& digest : entry.digests) {
      if (!digests.insert(digest).second) return Bad(absl::StrCat(where, ".sha256: is listed twice"));
    }
    entries.push_back(std::move(entry));
  }
  if (digests.size() > kMaxDigests) {
    return Bad(absl::StrCat("tokens: must list at most ", kMaxDigests, " digests, lists ", digests.size()));
  }
  return entries;
}

}  // namespace

absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(const std::string& path, const std::string& text) {
  auto entries = Parse(text);
  if (!entries.ok()) return Bad(absl::StrCat(path, ": ", entries.status().message()));
  return entries;
}

}  // namespace spotlight::server
