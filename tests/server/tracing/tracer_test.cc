#include "server/tracing/tracer.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/testing/captured_log.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_collector.h"
#include "version.h"

namespace spotlight::server {
namespace {

using spotlight::testing::AttributeOf;
using spotlight::testing::FakeCollector;
using spotlight::testing::OtlpSpan;

constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kParentId[] = "b7ad6b7169203331";

class TracerTest : public ::testing::Test {
 protected:
  // Exports every 20 ms.
  std::unique_ptr<Tracer> Start(double sample_ratio = 1, size_t max_queued_spans = 2048) {
    TracingOptions options;
    options.sample_ratio = sample_ratio;
    options.max_queued_spans = max_queued_spans;
    return Start(options);
  }
  std::unique_ptr<Tracer> Start(TracingOptions options) {
    options.endpoint = collector_.endpoint();
    options.export_interval = absl::Milliseconds(20);
    auto tracer = Tracer::Create(
        options, [this](SpanOutcome outcome, size_t num_spans) { counts_[static_cast<size_t>(outcome)] += num_spans; });
    EXPECT_TRUE(tracer.ok()) << tracer.status();
    return *std::move(tracer);
  }

  static Span MakeSpan(const std::string& flags = "") {
    Span span;
    span.name = "spotlight.v1.Generation/Generate";
    span.start = absl::FromUnixNanos(1'700'000'000'000'000'123);
    span.end = span.start + absl::Seconds(2);
    span.attributes = {{"text", std::string("a")},
                       {"texts", std::vector<std::string>{"b", "c"}},
                       {"integer", int64_t{-7}},
                       {"real", 0.5}};
    span.events = {{"queue", span.start + absl::Milliseconds(1)}, {"end", span.end}};
    if (!flags.empty()) {
      span.parent.traceparent = absl::StrCat("00-", kTraceId, "-", kParentId, "-", flags);
      span.parent.tracestate = "vendor=value";
    }
    return span;
  }

  size_t count(SpanOutcome outcome) const { return counts_[static_cast<size_t>(outcome)]; }
  void WaitForCount(SpanOutcome outcome, size_t num_spans) const {
    while (count(outcome) < num_spans) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  FakeCollector collector_;
  std::atomic<size_t> counts_[4] = {};
};

TEST_F(TracerTest, ASpanArrivesWhole) {
  const auto tracer = Start();
  const std::string trace_id = tracer->Record(MakeSpan());
  EXPECT_EQ(trace_id.size(), 32u);
  const auto request = collector_.TakeRequest();
  EXPECT_EQ(collector_.header("content-type"), "application/x-protobuf");
  ASSERT_EQ(request.resource_spans_size(), 1);
  const auto& resource = request.resource_spans(0);
  EXPECT_EQ(AttributeOf(resource.resource().attributes(), "service.name"), "spotlight");
  EXPECT_EQ(AttributeOf(resource.resource().attributes(), "service.version"), kVersion);
  ASSERT_EQ(resource.scope_spans_size(), 1);
  ASSERT_EQ(resource.scope_spans(0).spans_size(), 1);
  const OtlpSpan& span = resource.scope_spans(0).spans(0);
  EXPECT_EQ(span.name(), "spotlight.v1.Generation/Generate");
  EXPECT_EQ(span.kind(), OtlpSpan::SPAN_KIND_SERVER);
  EXPECT_EQ(absl::BytesToHexString(span.trace_id()), trace_id);
  EXPECT_EQ(span.parent_span_id(), "");
  EXPECT_EQ(span.start_time_unix_nano(), 1'700'000'000'000'000'123u);
  EXPECT_EQ(span.end_time_unix_nano(), 1'700'000'002'000'000'123u);
  EXPECT_EQ(AttributeOf(span.attributes(), "text"), "a");
  EXPECT_EQ(AttributeOf(span.attributes(), "texts"), "[b, c]");
  EXPECT_EQ(AttributeOf(span.attributes(), "integer"), "-7");
  EXPECT_EQ(AttributeOf(span.attributes(), "real"), "0.500000");
  ASSERT_EQ(span.events_size(), 2);
  EXPECT_EQ(span.events(0).name(), "queue");
  EXPECT_EQ(span.events(0).time_unix_nano(), 1'700'000'000'001'000'123u);
  EXPECT_EQ(span.events(1).name(), "end");
  EXPECT_EQ(span.status().code(), opentelemetry::proto::trace::v1::Status::STATUS_CODE_UNSET);
  WaitForCount(SpanOutcome::kExported, 1);
}

TEST_F(TracerTest, AnErrorIsTold) {
  Span failed = MakeSpan();
  failed.is_error = true;
  failed.error = "device fault";
  const auto tracer = Start();
  tracer->Record(failed);
  const OtlpSpan span = collector_.TakeSpan();
  EXPECT_EQ(span.status().code(), opentelemetry::proto::trace::v1::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(span.status().message(), "device fault");
}

TEST_F(TracerTest, TheCallersTraceGoesOn) {
  const auto tracer = Start(/*sample_ratio=*/0);  // which is for roots alone
  EXPECT_EQ(tracer->Record(MakeSpan("01")), kTraceId);
  const OtlpSpan span = collector_.TakeSpan();
  EXPECT_EQ(absl::BytesToHexString(span.trace_id()), kTraceId);
  EXPECT_EQ(absl::BytesToHexString(span.parent_span_id()), kParentId);
  EXPECT_EQ(span.trace_state(), "vendor=value");
  EXPECT_NE(absl::BytesToHexString(span.span_id()), kParentId);
}

TEST_F(TracerTest, ACallersNoIsHonoured) {
  const auto tracer = Start();
  EXPECT_EQ(tracer->Record(MakeSpan("00")), kTraceId);  // it has a trace, of which we send nothing
  EXPECT_TRUE(tracer->Shutdown(absl::Seconds(5)));
  EXPECT_EQ(collector_.num_posts(), 0);
}

TEST_F(TracerTest, CallersHaveSoManyTracesASecondSent) {
  TracingOptions options;
  options.max_parents_per_second = 3;
  const auto tracer = Start(options);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(tracer->Record(MakeSpan("03")), kTraceId);
  EXPECT_TRUE(tracer->Shutdown(absl::Seconds(5)));
  EXPECT_EQ(count(SpanOutcome::kLimited), 7u);
  EXPECT_EQ(count(SpanOutcome::kExported), 3u);
}

TEST(ParentLimitTest, ABucketHoldsASecondsWorth) {
  engine::FakeClock clock;
  ParentLimit limit(2, &clock);
  const auto allowed = [&limit] {
    int count = 0;
    while (limit.Allow()) ++count;
    return count;
  };
  EXPECT_EQ(allowed(), 2);
  clock.Advance(absl::Milliseconds(500));
  EXPECT_EQ(allowed(), 1);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(allowed(), 2);
  EXPECT_FALSE(ParentLimit(0, &clock).Allow());
}

TEST(TraceParentTest, TheSampledFlagIsTheLastBit) {
  TraceParent parent;
  EXPECT_FALSE(parent.is_sampled());
  for (const auto& [flags, cleared] : {std::pair("01", "00"), {"03", "02"}, {"0f", "0e"}, {"ff", "fe"}}) {
    parent.traceparent = absl::StrCat("00-", kTraceId, "-", kParentId, "-", flags);
    EXPECT_TRUE(parent.is_sampled());
    parent.ClearSampled();
    EXPECT_FALSE(parent.is_sampled());
    EXPECT_EQ(parent.traceparent.substr(53), cleared);
  }
}

TEST_F(TracerTest, AMalformedParentIsNone) {
  const auto tracer = Start();
  for (const char* traceparent : {"garbage", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                                  "00-00000000000000000000000000000000-b7ad6b7169203331-01", "\xff\xfe--\0-"}) {
    Span span = MakeSpan();
    span.parent.traceparent = traceparent;
    const std::string trace_id = tracer->Record(span);
    EXPECT_EQ(trace_id.size(), 32u);
    EXPECT_NE(trace_id, kTraceId);
    EXPECT_EQ(collector_.TakeSpan().parent_span_id(), "");
  }
}

TEST_F(TracerTest, TheRatioIsOfRoots) {
  const auto tracer = Start(/*sample_ratio=*/0.25);
  constexpr int kNumSpans = 1600;
  for (int i = 0; i < kNumSpans; ++i) EXPECT_EQ(tracer->Record(MakeSpan()).size(), 32u);
  EXPECT_TRUE(tracer->Shutdown(absl::Seconds(5)));
  // Five standard deviations.
  EXPECT_NEAR(count(SpanOutcome::kExported), kNumSpans / 4, 87);
}

TEST_F(TracerTest, ShutdownSendsWhatIsQueued) {
  TracingOptions options;
  options.endpoint = collector_.endpoint();
  options.export_interval = absl::Hours(1);
  const auto tracer = *Tracer::Create(options, nullptr);
  for (int i = 0; i < 3; ++i) tracer->Record(MakeSpan());
  EXPECT_EQ(collector_.num_posts(), 0);
  EXPECT_TRUE(tracer->Shutdown(absl::Seconds(5)));
  EXPECT_EQ(collector_.TakeRequest().resource_spans(0).scope_spans(0).spans_size(), 3);
  EXPECT_EQ(tracer->Record(MakeSpan()), "");
}

TEST_F(TracerTest, AFullQueueDropsAndCounts) {
  collector_.set_status(0);
  const auto tracer = Start(/*sample_ratio=*/1, /*max_queued_spans=*/4);
  tracer->Record(MakeSpan());
  collector_.WaitForPosts(1);  // the tracer's thread is held up
  const absl::Time start = absl::Now();
  for (int i = 0; i < 10; ++i) tracer->Record(MakeSpan());
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(500));
  EXPECT_EQ(count(SpanOutcome::kDropped), 7u);  // one is on its way, three wait
  collector_.set_status(200);
  WaitForCount(SpanOutcome::kExported, 4);
  tracer->Record(MakeSpan());  // there is room again
  WaitForCount(SpanOutcome::kExported, 5);
}

TEST_F(TracerTest, LostSpansAreCountedAndLoggedOnce) {
  spotlight::testing::CapturedLog log;
  collector_.set_status(503);
  const auto tracer = Start();
  for (size_t i = 1; i <= 3; ++i) {
    tracer->Record(MakeSpan());
    WaitForCount(SpanOutcome::kFailed, i);
  }
  collector_.set_status(200);
  tracer->Record(MakeSpan());
  WaitForCount(SpanOutcome::kExported, 1);
  EXPECT_TRUE(tracer->Shutdown(absl::Seconds(5)));
  const std::string text = log.text();
  EXPECT_TRUE(absl::StrContains(text, "did not take 1 spans, which are lost: HTTP status 503")) << text;
  EXPECT_FALSE(absl::StrContains(text, "did not take 2")) << text;
  EXPECT_TRUE(absl::StrContains(text, "takes spans again; 3 were lost")) << text;
}

TEST_F(TracerTest, ACollectorThatDoesNotAnswerHoldsNobodyUp) {
  collector_.set_status(0);
  auto tracer = Start();
  tracer->Record(MakeSpan());
  collector_.WaitForPosts(1);
  const absl::Time start = absl::Now();
  EXPECT_FALSE(tracer->Shutdown(absl::Milliseconds(100)));
  tracer = nullptr;
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  collector_.set_status(200);  // the post under way ends after its tracer
  collector_.TakeSpan();
  EXPECT_EQ(count(SpanOutcome::kExported), 0u);
}

TEST(TracerCreateTest, ACollectorThatIsNotThereIsNoError) {
  TracingOptions options;
  options.endpoint = "http://127.0.0.1:1/v1/traces";
  std::atomic<size_t> num_failed{0};
  auto tracer = Tracer::Create(options, [&num_failed](SpanOutcome outcome, size_t num_spans) {
    if (outcome == SpanOutcome::kFailed) num_failed += num_spans;
  });
  ASSERT_TRUE(tracer.ok()) << tracer.status();
  EXPECT_EQ((*tracer)->Record(Span()).size(), 32u);
  (*tracer)->Shutdown(absl::Seconds(5));
  EXPECT_EQ(num_failed, 1u);
}

TEST(TracerCreateTest, ABadEndpointIsAnError) {
  TracingOptions options;
  options.endpoint = "ftp://x";
  EXPECT_EQ(Tracer::Create(options, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotlight::server
