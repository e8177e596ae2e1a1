// Strict reading of one JSON object: every field has a type and bounds, and the first thing that is wrong is kept as a
// sentence that names the field. Values read after an error are defaults: look at status() before computing with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "nlohmann/json_fwd.hpp"

namespace spotlight::engine {

// Thread-compatible. Does not own the object.
class ConfigFields {
 public:
  // `prefix` stands before field names in messages ("rope_scaling."). `object` must be a JSON object.
  ConfigFields(const nlohmann::json& object, std::string prefix);

  // Absent and null are the same thing. Without a default, an absent field is an error. Bounds are inclusive.
  bool Has(const char* name) const;
  int32_t Int(const char* name, int32_t min, int32_t max, absl::optional<int32_t> absent = absl::nullopt);
  // min < value <= max, or min <= value where `min_allowed`.
  double Number(const char* name, double min, double max, absl::optional<double> absent = absl::nullopt,
                bool min_allowed = false);
  bool Bool(const char* name, bool absent);
  std::string String(const char* name, absl::optional<std::string> absent = absl::nullopt);
  std::vector<std::string> Strings(const char* name);                          // [] when absent
  std::vector<int32_t> IntOrInts(const char* name, int32_t min, int32_t max);  // [] when absent

  // Keeps the first error.
  void Fail(const std::string& name, const std::string& reason);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Get(const char* name) const;
  const nlohmann::json* GetOrFail(const char* name, bool required);
  int32_t CheckedInt(const char* name, const nlohmann::json& value, int32_t min, int32_t max);

  const nlohmann::json& object_;
  std::string prefix_;
  absl::Status status_;
};

// The file as a JSON object. NOT_FOUND or INVALID_ARGUMENT "PATH: reason"; files over `max_bytes` are refused.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, int64_t max_bytes);

// `status` with "PATH: " before its message.
absl::Status InFile(const std::string& path, const absl::Status& status);

// A value as an error message shows it: its JSON text, cut where it is long.
std::string Shown(const nlohmann::json& value);

}  // namespace spotlight::engine
