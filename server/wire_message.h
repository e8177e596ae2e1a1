// Messages to and from the bytes of a call. The service takes bytes, not parsed messages: gRPC would answer a message
// that does not parse with an empty UNIMPLEMENTED, and a string that is not UTF-8 is such a message.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace spotlight::server {

// A few bytes on the wire become an object of 50 or more in memory, so what may be allocated one by one (strings,
// messages, unknown fields) is counted before anything is: the longest chat with every list at its bound has fewer.
constexpr int kMaxMessageParts = 16384;
// Numbers of one byte take four, and eight while their list grows: four times as many as a context of a million tokens
// has ids.
constexpr int kMaxMessageNumbers = 4 << 20;

// INVALID_ARGUMENT names the string field that is not UTF-8, or says that the bytes are not this message, or have
// too many parts or numbers.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// Of a request that anyone may send and that needs few bytes.
constexpr size_t kMaxSmallMessageBytes = 4096;

// As ParseMessage, of at most kMaxSmallMessageBytes; INVALID_ARGUMENT says so. Empties `bytes`, which a call has until
// it ends, and nobody reads again.
absl::Status TakeSmallMessage(grpc::ByteBuffer* bytes, google::protobuf::Message* message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace spotlight::server
