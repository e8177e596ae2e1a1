// What a caller may send before anybody has looked at a token: bounded in bytes, whatever the method.
#include <sys/resource.h>

#include <string>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "tests/server/running_server.h"

namespace spotlight::server {
namespace {

long PeakMegabytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss >> 10;
}

class RequestBoundsTest : public RunningServer {
 protected:
  RequestBoundsTest() { Serve(); }

  grpc::Status Call(const std::string& method, const grpc::ByteBuffer& request,
                    grpc_compression_algorithm compression = GRPC_COMPRESS_NONE) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    context.set_compression_algorithm(compression);
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::ByteBuffer reply;
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    queue.Shutdown();
    return status;
  }
};

// A message of one field that no request has.
grpc::ByteBuffer MessageOf(int num_bytes) {
  int field_bytes = num_bytes - 5;  // behind a tag and a length of 28 bits
  std::string bytes = "\x7a";
  for (int i = 0; i < 4; ++i, field_bytes >>= 7) bytes += static_cast<char>((field_bytes & 127) | (i < 3 ? 128 : 0));
  bytes.resize(num_bytes, 'x');
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

TEST_F(RequestBoundsTest, ARequestAtTheBoundIsReadAndOneByteMoreIsRefused) {
  const grpc::Status read = Call("/spotlight.v1.Generation/GetLoads", MessageOf(kMaxRequestBytes));
  EXPECT_TRUE(read.ok()) << read.error_message();
  EXPECT_EQ(Call("/spotlight.v1.Generation/GetLoads", MessageOf(kMaxRequestBytes + 1)).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// 128 MB of zeros are 125 KB of gzip: far below what may be sent.
TEST_F(RequestBoundsTest, ACompressedRequestIsRefusedWithoutBeingInflated) {
  const grpc::Slice megabyte(std::string(1 << 20, '\0'));
  const std::vector<grpc::Slice> slices(128, megabyte);
  const grpc::ByteBuffer zeros(slices.data(), slices.size());
  const long before = PeakMegabytes();
  for (const grpc::Status& status : {Call("/spotlight.v1.Generation/Generate", zeros, GRPC_COMPRESS_GZIP),
                                     Call("/grpc.health.v1.Health/Check", zeros, GRPC_COMPRESS_DEFLATE)}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
  EXPECT_LT(PeakMegabytes() - before, 48);
}

}  // namespace
}  // namespace spotlight::server
