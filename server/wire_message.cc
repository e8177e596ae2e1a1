#include "server/wire_message.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/slice.h"
#include "server/utf8.h"

namespace spotlight::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// Protobuf's own default; deeper messages do not parse.
constexpr int kMaxDepth = 100;

// The path of the first string field that is not UTF-8. Stops quietly at bytes that are no message.
absl::optional<std::string> FindInvalidUtf8(const Descriptor& type, const std::string& prefix, int depth,
                                            CodedInputStream* input) {
  std::string text;
  while (const uint32_t tag = input->ReadTag()) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const bool is_delimited = WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (field != nullptr && is_delimited && field->type() == FieldDescriptor::TYPE_STRING) {
      if (!WireFormatLite::ReadString(input, &text)) return absl::nullopt;
      if (!IsUtf8(text)) return absl::StrCat(prefix, field->name());
    } else if (field != nullptr && is_delimited && field->type() == FieldDescriptor::TYPE_MESSAGE) {
      uint32_t size = 0;
      if (depth == kMaxDepth || !input->ReadVarint32(&size)) return absl::nullopt;
      const auto limit = input->PushLimit(static_cast<int>(size));
      auto found = FindInvalidUtf8(*field->message_type(), absl::StrCat(prefix, field->name(), "."), depth + 1, input);
      if (found.has_value()) return found;
      if (!input->ConsumedEntireMessage()) return absl::nullopt;
      input->PopLimit(limit);
    } else if (!WireFormatLite::SkipField(input, tag)) {
      return absl::nullopt;
    }
  }
  return absl::nullopt;
}

// A known number of another wire type is kept as an unknown field.
bool IsNumber(const FieldDescriptor* field, WireFormatLite::WireType wire_type) {
  if (field == nullptr || field->cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
      field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return false;
  }
  const auto type = static_cast<WireFormatLite::FieldType>(field->type());
  return wire_type == WireFormatLite::WireTypeForFieldType(type) ||
         (field->is_packable() && wire_type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

// How many numbers the next field has, of `type` and after its tag, and past it; -1: its bytes are no message's.
int64_t SkipNumbers(WireFormatLite::FieldType type, uint32_t tag, CodedInputStream* input) {
  if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
    return WireFormatLite::SkipField(input, tag) ? 1 : -1;
  }
  uint32_t size = 0;
  const void* data = nullptr;
  int available = 0;
  if (!input->ReadVarint32(&size)) return -1;
  if (size == 0) return 0;
  if (!input->GetDirectBufferPointer(&data, &available) || static_cast<uint32_t>(available) < size) return -1;
  input->Skip(static_cast<int>(size));
  const auto* const bytes = static_cast<const uint8_t*>(data);
  switch (WireFormatLite::WireTypeForFieldType(type)) {
    case WireFormatLite::WIRETYPE_FIXED32:
      return size / 4;
    case WireFormatLite::WIRETYPE_FIXED64:
      return size / 8;
    default:  // each ends with a byte below 128
      return std::count_if(bytes, bytes + size, [](uint8_t byte) { return byte < 0x80; });
  }
}

struct Budget {
  int parts = kMaxMessageParts;
  int64_t numbers = kMaxMessageNumbers;
};

// Takes the message's numbers from `budget`, and its strings, messages and unknown fields; false when it is spent.
// Stops quietly at bytes that are no message.
bool FitsBudget(const Descriptor& type, Budget* budget, CodedInputStream* input) {
  while (const uint32_t tag = input->ReadTag()) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const auto wire_type = WireFormatLite::GetTagWireType(tag);
    if (IsNumber(field, wire_type)) {
      const int64_t count = SkipNumbers(static_cast<WireFormatLite::FieldType>(field->type()), tag, input);
      if (count < 0) return true;
      if ((budget->numbers -= count) < 0) return false;
      continue;
    }
    if (--budget->parts < 0) return false;
    if (field != nullptr && field->type() == FieldDescriptor::TYPE_MESSAGE &&
        wire_type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      uint32_t size = 0;
      if (!input->ReadVarint32(&size)) return true;
      const auto limit = input->PushLimit(static_cast<int>(size));
      if (!FitsBudget(*field->message_type(), budget, input)) return false;
      if (!input->ConsumedEntireMessage()) return true;
      input->PopLimit(limit);
      continue;
    }
    const int begin = input->CurrentPosition();
    if (!WireFormatLite::SkipField(input, tag)) return true;
    // Whatever a group holds is unknown, too: the API has none.
    if (wire_type == WireFormatLite::WIRETYPE_START_GROUP) budget->parts -= input->CurrentPosition() - begin;
    if (budget->parts < 0) return false;
  }
  return true;
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok()) return absl::InternalError("the call's bytes cannot be read");
  CodedInputStream counted(slice.begin(), static_cast<int>(slice.size()));
  Budget budget;
  if (!FitsBudget(*message->GetDescriptor(), &budget, &counted)) {
    return absl::InvalidArgumentError(absl::StrCat("request: must have at most ", kMaxMessageParts,
                                                   " strings, messages and unknown fields, and ", kMaxMessageNumbers,
                                                   " numbers"));
  }
  if (message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) return absl::OkStatus();
  CodedInputStream input(slice.begin(), static_cast<int>(slice.size()));
  const auto field = FindInvalidUtf8(*message->GetDescriptor(), "", 0, &input);
  if (field.has_value()) return absl::InvalidArgumentError(absl::StrCat(*field, ": must be UTF-8"));
  return absl::InvalidArgumentError(
      absl::StrCat("request: its ", slice.size(), " bytes are not a ", message->GetDescriptor()->full_name()));
}

absl::Status TakeSmallMessage(grpc::ByteBuffer* bytes, google::protobuf::Message* message) {
  const size_t num_bytes = bytes->Length();
  const absl::Status status =
      num_bytes <= kMaxSmallMessageBytes
          ? ParseMessage(*bytes, message)
          : absl::InvalidArgumentError(
                absl::StrCat("request: must have at most ", kMaxSmallMessageBytes, " bytes, got ", num_bytes));
  bytes->Clear();
  return status;
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace spotlight::server
