// Protobuf messages as JSON: field names as in the .proto, 64-bit integers as numbers, enum values in lower case
// without their type's prefix ("stop"). Follows the message's descriptor, so a new field appears by itself.
#pragma once

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace spotlight::client {

enum class Defaults { kOmit, kKeep };

// `defaults` says what becomes of the top message's zeros and empty lists; inside submessages they are kept. Absent
// optional fields and UNSPECIFIED enum values are left out; a number that JSON cannot hold (infinite, NaN) is null.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message, Defaults defaults);

// One line. Always valid JSON: bytes that are not UTF-8 become U+FFFD.
std::string ToLine(const nlohmann::ordered_json& json);

// "FINISH_REASON_STOP" -> "stop", "DENSE_REASON_SHORT_CONTEXT" -> "short_context".
std::string EnumName(const google::protobuf::EnumValueDescriptor& value);

}  // namespace spotlight::client
