// What a caller may send before anybody has looked at a token: bounded in bytes, whatever the method.
#include <sys/resource.h>

#include <string>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/stream_places.h"
#include "tests/server/raw_call.h"
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
  explicit RequestBoundsTest(const ServerOptions& options = {}) : RunningServer(options) { Serve(); }

  grpc::Status Call(const std::string& method, const grpc::ByteBuffer& request,
                    grpc_compression_algorithm compression = GRPC_COMPRESS_NONE) {
    grpc::ByteBuffer reply;
    return CallRaw(channel_, method, request, &reply, compression);
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

// Reflection is gRPC's own, and each of its calls holds a thread.
TEST_F(RequestBoundsTest, ReflectionTakesAFewCallsAtATime) {
  struct OpenCall {
    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
    grpc::ByteBuffer reply;
  };
  constexpr int kNumCalls = 100;
  grpc::GenericStub stub(channel_);
  grpc::CompletionQueue queue;
  const auto done = [&queue] {
    void* tag;
    bool ok;
    return queue.Next(&tag, &ok) && ok;
  };
  std::vector<std::unique_ptr<OpenCall>> open;
  int num_refused = 0;
  const grpc::Slice list_services(std::string("\x3a\0", 2));
  for (int i = 0; i < kNumCalls; ++i) {
    auto call = std::make_unique<OpenCall>();
    call->stream =
        stub.PrepareCall(&call->context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    call->stream->StartCall(nullptr);
    done();
    call->stream->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
    done();
    call->stream->Read(&call->reply, nullptr);
    if (done()) {
      open.push_back(std::move(call));
      continue;
    }
    grpc::Status status;
    call->stream->Finish(&status, nullptr);
    done();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
    ++num_refused;
  }
  ASSERT_GE(open.size(), 8u);
  grpc::Slice listed;
  ASSERT_TRUE(open.front()->reply.DumpToSingleSlice(&listed).ok());
  const std::string services(reinterpret_cast<const char*>(listed.begin()), listed.size());
  for (const char* service :
       {"spotlight.v1.Generation", "grpc.health.v1.Health", "xds.service.orca.v3.OpenRcaService"}) {
    EXPECT_NE(services.find(service), std::string::npos) << service;
  }
  EXPECT_GE(num_refused, kNumCalls - 32);
  EXPECT_TRUE(Call("/spotlight.v1.Generation/GetLoads", grpc::ByteBuffer(&list_services, 0)).ok());
  for (const auto& call : open) {
    call->context.TryCancel();
    grpc::Status status;
    call->stream->Finish(&status, nullptr);
    done();
  }
  queue.Shutdown();
}

// A few bytes each, and the objects that they become are many times as large.
grpc::ByteBuffer EmptyStrings(uint8_t field, int num_bytes) {
  std::string bytes;
  while (static_cast<int>(bytes.size()) < num_bytes) bytes += {static_cast<char>(field << 3 | 2), '\0'};
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

TEST_F(RequestBoundsTest, WhatNeedsNoTokenTakesFourKilobytes) {
  for (const char* method : {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
                             "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"}) {
    const grpc::Status refused = Call(method, EmptyStrings(2, 4098));
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(refused.error_message(), "request: must have at most 4096 bytes, got 4098") << method;
    EXPECT_EQ(DetailOf<google::rpc::BadRequest>(refused).field_violations(0).field(), "request");
  }
  const grpc::Status read = Call("/grpc.health.v1.Health/Check", EmptyStrings(1, 4096));
  EXPECT_TRUE(read.ok()) << read.error_message();
}

TEST_F(RequestBoundsTest, BytesThatAreNoHealthRequestAreCalledSo) {
  const grpc::Slice slice(
      std::string("\x0a\x05"
                  "zz"));
  const grpc::Status status = Call("/grpc.health.v1.Health/Check", grpc::ByteBuffer(&slice, 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "request: its 4 bytes are not a grpc.health.v1.HealthCheckRequest");
}

TEST(StreamPlacesTest, ACallerMayHaveEightTimesWhatIsFree) {
  StreamPlaces places(18);
  std::vector<StreamPlaces::Place> first, second;
  const auto take = [&places](const std::string& caller, std::vector<StreamPlaces::Place>* taken) {
    for (;;) {
      auto place = places.Take(caller);
      if (!place.ok()) return place.status();
      taken->push_back(*std::move(place));
    }
  };
  const absl::Status refused = take("greedy", &first);
  EXPECT_EQ(first.size(), 16u);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "open_streams: 16 of 18 watches and load reports are open, 16 of them this caller's");
  take("other", &second).IgnoreError();
  EXPECT_EQ(second.size(), 2u);
  first.clear();
  take("other", &second).IgnoreError();
  EXPECT_EQ(second.size(), 16u) << "what is given back is free again";
}

class OpenStreamsTest : public RequestBoundsTest {
 protected:
  OpenStreamsTest() : RequestBoundsTest(Options()) {}
  static ServerOptions Options() {
    ServerOptions options;
    options.max_open_streams = 9;
    return options;
  }

  struct Watch {
    explicit Watch(grpc::health::v1::Health::Stub* stub, const std::string& name) {
      grpc::health::v1::HealthCheckRequest request;
      request.set_service(name);
      stream = stub->Watch(&context, request);
      grpc::health::v1::HealthCheckResponse response;
      open = stream->Read(&response);
    }
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<grpc::health::v1::HealthCheckResponse>> stream;
    bool open;
  };
};

TEST_F(OpenStreamsTest, WatchesAndLoadReportsShareTheirPlaces) {
  std::vector<std::unique_ptr<Watch>> watches;
  for (int i = 0; i < 8; ++i) {
    watches.push_back(std::make_unique<Watch>(health_.get(), i % 2 == 0 ? "readiness" : "nobody"));
    EXPECT_TRUE(watches.back()->open);
  }
  Watch refused(health_.get(), "readiness");
  EXPECT_FALSE(refused.open);
  EXPECT_EQ(refused.stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Call("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics", EmptyStrings(1, 0)).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Call("/grpc.health.v1.Health/Check", EmptyStrings(1, 2)).ok()) << "a question needs no place";

  watches.front()->context.TryCancel();
  for (bool open = false; !open;) open = Watch(health_.get(), "readiness").open;  // a place again, soon
}

}  // namespace
}  // namespace spotlight::server
