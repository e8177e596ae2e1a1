#include "client/message_json.h"

#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace spotlight::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

// The shortest decimal that reads back as the same float, not the float's 17 digits as a double.
double Shortest(float value) {
  for (int digits = 6; digits < 9; ++digits) {
    const double rounded = std::strtod(absl::StrFormat("%.*g", digits, value).c_str(), nullptr);
    if (static_cast<float>(rounded) == value) return rounded;
  }
  return value;
}

// Element `index` of a repeated field, or the field itself.
Json Value(const Message& message, const FieldDescriptor& field, int index) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const bool repeated = field.is_repeated();
#define SPOTLIGHT_GET(Type) \
  (repeated ? reflection.GetRepeated##Type(message, &field, index) : reflection.Get##Type(message, &field))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return SPOTLIGHT_GET(Int32);
    case FieldDescriptor::CPPTYPE_INT64:
      return SPOTLIGHT_GET(Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return SPOTLIGHT_GET(UInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return SPOTLIGHT_GET(UInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return SPOTLIGHT_GET(Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Shortest(SPOTLIGHT_GET(Float));
    case FieldDescriptor::CPPTYPE_BOOL:
      return SPOTLIGHT_GET(Bool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(*SPOTLIGHT_GET(Enum));
    case FieldDescriptor::CPPTYPE_STRING:
      return SPOTLIGHT_GET(String);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(
          repeated ? reflection.GetRepeatedMessage(message, &field, index) : reflection.GetMessage(message, &field),
          Defaults::kKeep);
  }
#undef SPOTLIGHT_GET
  return nullptr;
}

}  // namespace

std::string EnumName(const google::protobuf::EnumValueDescriptor& value) {
  // UPPER_SNAKE of the type's CamelCase name is what its values begin with.
  std::string prefix;
  for (const char c : value.type()->name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return absl::AsciiStrToLower(absl::StripPrefix(value.name(), prefix + "_"));
}

Json ToJson(const Message& message, Defaults defaults) {
  const google::protobuf::Descriptor& descriptor = *message.GetDescriptor();
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  Json json = Json::object();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.is_repeated()) {
      const int size = reflection.FieldSize(message, &field);
      if (size == 0 && defaults == Defaults::kOmit) continue;
      Json& list = json[field.name()] = Json::array();
      for (int k = 0; k < size; ++k) list.push_back(Value(message, field, k));
      continue;
    }
    const bool has = reflection.HasField(message, &field);
    if (!has && (field.has_presence() || defaults == Defaults::kOmit)) continue;
    if (!has && field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) continue;
    json[field.name()] = Value(message, field, 0);
  }
  return json;
}

std::string ToLine(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace spotlight::client
