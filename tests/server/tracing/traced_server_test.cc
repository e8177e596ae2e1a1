// What a server makes of calls: spans.
#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "tests/server/running_server.h"
#include "tests/testing/fake_collector.h"

namespace spotlight::server {
namespace {

using spotlight::testing::AttributeOf;
using spotlight::testing::FakeCollector;
using spotlight::testing::FakeEngine;
using spotlight::testing::OtlpSpan;

constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";

struct WithCollector {
  FakeCollector collector_;  // before the server that is told of it

  ServerOptions Options() const {
    ServerOptions options;
    options.tracing.endpoint = collector_.endpoint();
    options.tracing.export_interval = absl::Milliseconds(20);
    return options;
  }
};

class TracedServerTest : private WithCollector, public RunningServer {
 protected:
  TracedServerTest() : RunningServer(Options()) { Serve(); }

  // One call from its beginning to the engine's `finish`; the metadata `key` = `value` goes with it.
  grpc::Status Call(const engine::Finish& finish, const char* key = "", const std::string& value = "") {
    std::thread engine([&] {
      const std::string id = engine_.TakeRequest().request_id;
      engine_.Prompt(id, 5);
      engine_.Finish(id, finish);
    });
    grpc::ClientContext context;
    if (*key != '\0') context.AddMetadata(key, value);
    v1::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, Request("r-1"), &response);
    engine.join();
    return status;
  }
  static std::string Parent(const char* flags) { return absl::StrCat("00-", kTraceId, "-b7ad6b7169203331-", flags); }
  OtlpSpan TakeSpan() { return collector_.TakeSpan(); }
};

TEST_F(TracedServerTest, AnAnswerIsASpanWithItsFigures) {
  engine::Finish finish = FakeEngine::Stopped(5, 3);
  finish.usage.cached_prompt_tokens = 2;
  finish.timings.queue = 0.001;
  finish.timings.time_to_first_token = 0.002;
  EXPECT_TRUE(Call(finish).ok());
  const OtlpSpan span = TakeSpan();
  EXPECT_EQ(span.name(), "spotlight.v1.Generation/Generate");
  EXPECT_EQ(AttributeOf(span.attributes(), "rpc.response.status_code"), "OK");
  EXPECT_EQ(AttributeOf(span.attributes(), "server.port"), std::to_string(server_->grpc_port()));
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.request.model"), "fake");
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.response.id"), "r-1");
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.response.finish_reasons"), "[stop]");
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.usage.input_tokens"), "5");
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.usage.output_tokens"), "3");
  EXPECT_EQ(AttributeOf(span.attributes(), "gen_ai.usage.cache_read.input_tokens"), "2");
  EXPECT_EQ(span.events_size(), 4);
  EXPECT_EQ(absl::BytesToHexString(span.trace_id()), TakeRecord().trace_id);
}

TEST_F(TracedServerTest, MetadataPutItIntoTheCallersTrace) {
  EXPECT_TRUE(Call(FakeEngine::Stopped(5, 3), "traceparent", Parent("01")).ok());
  const OtlpSpan span = TakeSpan();
  EXPECT_EQ(absl::BytesToHexString(span.trace_id()), kTraceId);
  EXPECT_EQ(absl::BytesToHexString(span.parent_span_id()), "b7ad6b7169203331");
  EXPECT_EQ(TakeRecord().trace_id, kTraceId);
}

TEST_F(TracedServerTest, ACallerThatDoesNotSampleIsNotSampled) {
  EXPECT_TRUE(Call(FakeEngine::Stopped(5, 3), "traceparent", Parent("00")).ok());
  EXPECT_EQ(TakeRecord().trace_id, kTraceId);
  EXPECT_TRUE(Call(FakeEngine::Stopped(5, 3)).ok());
  EXPECT_NE(absl::BytesToHexString(TakeSpan().trace_id()), kTraceId);  // the first span that comes is the second call's
}

TEST_F(TracedServerTest, FlagsThatAreNoneMakeNoParent) {
  for (const char* flags : {"0B", "1", "+1", "01x"}) {
    EXPECT_TRUE(Call(FakeEngine::Stopped(5, 3), "traceparent", Parent(flags)).ok());
    EXPECT_NE(absl::BytesToHexString(TakeSpan().trace_id()), kTraceId) << flags;
  }
}

TEST_F(TracedServerTest, AFailureOfTheServerIsAnError) {
  engine::Finish finish;
  finish.reason = engine::FinishReason::kError;
  finish.status = absl::InternalError("device fault");
  EXPECT_EQ(Call(finish).error_code(), grpc::StatusCode::INTERNAL);
  const OtlpSpan span = TakeSpan();
  EXPECT_EQ(span.status().code(), opentelemetry::proto::trace::v1::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(span.status().message(), "device fault");
  EXPECT_EQ(AttributeOf(span.attributes(), "error.type"), "INTERNAL");
  ASSERT_EQ(span.events_size(), 2);  // it was never scheduled
  EXPECT_EQ(span.events(0).name(), "queue");
  EXPECT_EQ(span.events(1).name(), "end");
}

TEST_F(TracedServerTest, TheOtherCallsAreSpansAsWell) {
  grpc::ClientContext context;
  context.AddMetadata("traceparent", Parent("01"));
  v1::GetModelInfoResponse response;
  EXPECT_TRUE(stub_->GetModelInfo(&context, v1::GetModelInfoRequest(), &response).ok());
  const OtlpSpan span = TakeSpan();
  EXPECT_EQ(span.name(), "spotlight.v1.Generation/GetModelInfo");
  EXPECT_EQ(absl::BytesToHexString(span.trace_id()), kTraceId);
  EXPECT_EQ(span.events_size(), 0);
}

}  // namespace
}  // namespace spotlight::server
