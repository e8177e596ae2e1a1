#include "engine/model/safetensors_header.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;
using Tensor = SafetensorsHeader::Tensor;

constexpr size_t kMaxRank = 64;

std::string Quoted(const std::string& name) {
  return Shown(json(name));
}

// Fills a SafetensorsHeader while the text is parsed: no tree is built, and names given twice are seen. The grammar is
// {NAME: {"dtype": string, "shape": [count...], "data_offsets": [count, count]}..., "__metadata__": {string: string}}.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  HeaderReader() = default;
  SafetensorsHeader TakeHeader() { return std::move(header_); }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return Unexpected(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Unexpected(text); }
  bool binary(binary_t&) override { return Unexpected("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (value > INT64_MAX) return Fail(absl::StrCat("tensor ", Quoted(name_), " has a dimension of ", value));
      if (tensor_.shape.size() == kMaxRank) {
        return Fail(absl::StrCat("tensor ", Quoted(name_), " has over ", kMaxRank, " dimensions"));
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets && num_offsets_ < 2) {
      (num_offsets_ == 0 ? tensor_.begin : tensor_.end) = value;
      ++num_offsets_;
      return true;
    }
    return Unexpected(absl::StrCat(value));
  }

  bool string(string_t& value) override {
    if (place_ == Place::kTensor && field_ == "dtype") {
      tensor_.dtype = std::move(value);
      return true;
    }
    if (place_ == Place::kMetadata) {
      if (!header_.metadata.emplace(field_, std::move(value)).second) {
        return Fail(absl::StrCat("has __metadata__ ", Quoted(field_), " twice"));
      }
      return true;
    }
    return Unexpected("a string");
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && name_ == "__metadata__") {
      if (std::exchange(has_metadata_, true)) return Fail("has __metadata__ twice");
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kTensor;
      tensor_ = Tensor();
      fields_.clear();
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      name_ = std::move(value);
      return true;
    }
    field_ = std::move(value);
    if (place_ == Place::kMetadata) return true;
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      return Fail(absl::StrCat("tensor ", Quoted(name_), " has an unknown field ", Quoted(field_)));
    }
    if (std::find(fields_.begin(), fields_.end(), field_) != fields_.end()) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), " has ", field_, " twice"));
    }
    fields_.push_back(field_);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (std::find(fields_.begin(), fields_.end(), field) == fields_.end()) {
          return Fail(absl::StrCat("tensor ", Quoted(name_), " has no ", field));
        }
      }
      if (!header_.tensors.emplace(name_, std::move(tensor_)).second) {
        return Fail(absl::StrCat("has tensor ", Quoted(name_), " twice"));
      }
    }
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kTensor && field_ == "shape") {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      num_offsets_ = 0;
    } else {
      return Unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), " has ", num_offsets_, " data_offsets instead of 2"));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    return Fail(absl::StrCat("its header is not JSON (at byte ", position, ")"));
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  bool Unexpected(const std::string& what) {
    switch (place_) {
      case Place::kOutside:
        return Fail("its header is not a JSON object");
      case Place::kTop:
        return Fail(absl::StrCat(Quoted(name_), " is ", what, " instead of an object"));
      case Place::kMetadata:
        return Fail(absl::StrCat("__metadata__ ", Quoted(field_), " is ", what, " instead of a string"));
      default:
        return Fail(absl::StrCat("tensor ", Quoted(name_), " has ", what, " in its ", field_));
    }
  }

  SafetensorsHeader header_;
  std::string error_;
  Place place_ = Place::kOutside;
  std::string name_, field_;         // the latest keys: at the top, and in a tensor or the metadata
  std::vector<std::string> fields_;  // the tensor's so far
  Tensor tensor_;
  int num_offsets_ = 0;
  bool has_metadata_ = false;
};

// 0: unknown. Sizes in bits: F4 and F6 are narrower than a byte.
int BitsOf(const std::string& dtype) {
  static const std::map<std::string, int>& bits = *new std::map<std::string, int>{
      {"BOOL", 8},    {"U8", 8},      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F4", 4},
      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},
      {"U32", 32},    {"F32", 32},    {"C64", 64}, {"F64", 64},    {"I64", 64},    {"U64", 64}};
  const auto it = bits.find(dtype);
  return it == bits.end() ? 0 : it->second;
}

absl::Status CheckTensor(const std::string& name, const Tensor& tensor, uint64_t data_bytes) {
  const auto error = [&name](const std::string& reason) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " ", reason));
  };
  if (tensor.begin > tensor.end || tensor.end > data_bytes) {
    return error(
        absl::StrCat("has data_offsets [", tensor.begin, ", ", tensor.end, "] in ", data_bytes, " bytes of data"));
  }
  const int bits = BitsOf(tensor.dtype);
  if (bits == 0) return error(absl::StrCat("has the unknown dtype ", Quoted(tensor.dtype)));
  uint64_t num_bits = bits;
  for (const int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(num_bits, static_cast<uint64_t>(dimension), &num_bits)) {
      return error("has a shape that is too large");
    }
  }
  if (num_bits % 8 != 0) return error("does not fill its last byte");
  if (num_bits / 8 != tensor.end - tensor.begin) {
    return error(
        absl::StrCat("has ", tensor.end - tensor.begin, " bytes, but its shape and dtype need ", num_bits / 8));
  }
  return absl::OkStatus();
}

// The tensors must follow each other from the first byte of the data to the last.
absl::Status CheckCoverage(const std::map<std::string, Tensor>& tensors, uint64_t data_bytes) {
  std::vector<const std::pair<const std::string, Tensor>*> in_file_order;
  for (const auto& entry : tensors) in_file_order.push_back(&entry);
  std::sort(in_file_order.begin(), in_file_order.end(), [](const auto* a, const auto* b) {
    return std::make_pair(a->second.begin, a->second.end) < std::make_pair(b->second.begin, b->second.end);
  });
  uint64_t covered = 0;
  for (const auto* entry : in_file_order) {
    const auto& [name, tensor] = *entry;
    if (tensor.begin != covered) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(name), " begins at byte ", tensor.begin,
          tensor.begin < covered ? ", inside another: " : ", after a hole: ", "the data before it ends at ", covered));
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", data_bytes, " bytes of data, of which tensors cover ", covered));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text, uint64_t data_bytes) {
  HeaderReader reader;
  if (!json::sax_parse(text.begin(), text.end(), &reader)) return absl::InvalidArgumentError(reader.error());
  SafetensorsHeader header = reader.TakeHeader();
  for (const auto& [name, tensor] : header.tensors) {
    if (absl::Status status = CheckTensor(name, tensor, data_bytes); !status.ok()) return status;
  }
  if (absl::Status status = CheckCoverage(header.tensors, data_bytes); !status.ok()) return status;
  return header;
}

}  // namespace spotlight::engine
