#include "engine/model/hash_file_metadata.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/model/config_fields.h"
#include "kernels/layout.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

constexpr char kFormat[] = "spotlight-hash-1";
constexpr int32_t kMaxCount = 1 << 20;

// Reads values and keeps the first error.
class MetadataReader {
 public:
  explicit MetadataReader(const std::map<std::string, std::string>& metadata) : metadata_(metadata) {}
  const absl::Status& status() const { return status_; }

  void Fail(const std::string& key, const std::string& reason) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("metadata ", key, ": ", reason));
  }

  std::string Optional(const std::string& key) const {
    const auto it = metadata_.find(key);
    return it == metadata_.end() ? "" : it->second;
  }

  std::string Required(const std::string& key) {
    if (metadata_.count(key) == 0) Fail(key, "is missing");
    return Optional(key);
  }

  // `evaluated`: what the trainer's baselines say, which no kernel reads.
  std::string OneOf(const std::string& key, const std::vector<std::string>& allowed,
                    const std::vector<std::string>& evaluated = {}) {
    const std::string value = Required(key);
    if (std::find(evaluated.begin(), evaluated.end(), value) != evaluated.end()) {
      Fail(key, absl::StrCat(Shown(value), " is for evaluation only and cannot be served (",
                             absl::StrJoin(allowed, ", "), ")"));
    } else if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
      Fail(key, absl::StrCat(Shown(value), " is not supported (", absl::StrJoin(allowed, ", "), ")"));
    }
    return value;
  }

  int32_t Int(const std::string& key, int32_t min, int32_t max) { return CheckedInt(key, Required(key), min, max); }

  float PositiveNumber(const std::string& key) {
    const std::string text = Required(key);
    float value = 0;
    if (!absl::SimpleAtof(text, &value) || !std::isfinite(value) || value <= 0) {
      Fail(key, absl::StrCat("must be a positive number, is ", Shown(text)));
    }
    return value;
  }

  std::vector<int32_t> AscendingInts(const std::string& key, int32_t min, int32_t max) {
    std::vector<int32_t> values;
    const std::string list = Required(key);
    for (const absl::string_view text : absl::StrSplit(list, ',')) {
      const int32_t value = CheckedInt(key, std::string(text), min, max);
      if (!values.empty() && value <= values.back()) Fail(key, "must ascend");
      if (!status_.ok()) return values;
      values.push_back(value);
    }
    return values;
  }

 private:
  int32_t CheckedInt(const std::string& key, const std::string& text, int32_t min, int32_t max) {
    int32_t value = min;
    if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
      Fail(key, absl::StrCat("must be an integer in [", min, ", ", max, "], is ", Shown(text)));
      return min;
    }
    return value;
  }

  const std::map<std::string, std::string>& metadata_;
  absl::Status status_;
};

// Reads back to the same float.
std::string ShortestText(float value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

}  // namespace

absl::StatusOr<HashFileMetadata> ParseHashFileMetadata(const std::map<std::string, std::string>& metadata) {
  MetadataReader reader(metadata);
  HashFileMetadata result;
  reader.OneOf("format", {kFormat});
  result.encoder = reader.OneOf("encoder", {"z", "linear"}, {"paper"});
  result.scoring =
      reader.OneOf("scoring", {"asymmetric"}, {"symmetric", "symmetric-per-query-head", "asymmetric-per-query-head"});
  result.num_planes = reader.Int("planes", 1, kernels::kMaxPlanes);
  result.plane_step = reader.PositiveNumber("plane_step");
  result.hash_bits = reader.Int("hash_bits", 32, 32 * kernels::kMaxHashWords);
  if (!IsHashBits(result.hash_bits)) {
    reader.Fail("hash_bits", absl::StrCat("must be 32, 64, 128 or 256, is ", result.hash_bits));
  }
  result.prefix_bits = reader.Int("prefix_bits", 0, 32);
  if (result.prefix_bits % 32 != 0) {
    reader.Fail("prefix_bits", absl::StrCat("must be 0 or 32, is ", result.prefix_bits));
  }
  result.num_layers = reader.Int("num_layers", 1, kMaxCount);
  result.num_kv_heads = reader.Int("num_kv_heads", 1, kMaxCount);
  result.group = reader.Int("group", 1, kMaxCount);
  result.head_dim = reader.Int("head_dim", 1, kMaxCount);
  result.layers = reader.AscendingInts("layers", 0, result.num_layers - 1);
  result.model_fingerprint = reader.Required("model_fingerprint");
  result.trained = reader.OneOf("trained", {"true", "false"}) == "true";
  result.recipe = reader.Optional("recipe");
  result.corpus_sha256 = reader.Optional("corpus_sha256");
  result.heldout = reader.Optional("heldout");
  if (!reader.status().ok()) return reader.status();
  return result;
}

bool IsHashBits(int32_t bits) {
  return bits == 32 || bits == 64 || bits == 128 || bits == 256;
}

std::map<std::string, std::string> FormatHashFileMetadata(const HashFileMetadata& metadata) {
  return {{"format", kFormat},
          {"encoder", metadata.encoder},
          {"scoring", metadata.scoring},
          {"planes", absl::StrCat(metadata.num_planes)},
          {"plane_step", ShortestText(metadata.plane_step)},
          {"hash_bits", absl::StrCat(metadata.hash_bits)},
          {"prefix_bits", absl::StrCat(metadata.prefix_bits)},
          {"num_layers", absl::StrCat(metadata.num_layers)},
          {"num_kv_heads", absl::StrCat(metadata.num_kv_heads)},
          {"group", absl::StrCat(metadata.group)},
          {"head_dim", absl::StrCat(metadata.head_dim)},
          {"layers", absl::StrJoin(metadata.layers, ",")},
          {"model_fingerprint", metadata.model_fingerprint},
          {"trained", metadata.trained ? "true" : "false"},
          {"recipe", metadata.recipe},
          {"corpus_sha256", metadata.corpus_sha256},
          {"heldout", metadata.heldout}};
}

}  // namespace spotlight::engine
