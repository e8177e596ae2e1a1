#include "server/tracing/otlp_endpoint.h"

#include "gtest/gtest.h"

namespace spotlight::server {
namespace {

TEST(OtlpEndpointTest, ReadsHostsAndUrls) {
  EXPECT_EQ(ParseOtlpEndpoint("collector:4318")->url(), "http://collector:4318/v1/traces");
  EXPECT_EQ(ParseOtlpEndpoint("[::1]:4318")->url(), "http://[::1]:4318/v1/traces");
  EXPECT_EQ(ParseOtlpEndpoint("https://otel.example.org")->url(), "https://otel.example.org/v1/traces");
  EXPECT_EQ(ParseOtlpEndpoint("http://10.0.0.1:80/")->url(), "http://10.0.0.1:80/v1/traces");
  EXPECT_EQ(ParseOtlpEndpoint("http://x:1/own/path")->path, "/own/path");
  EXPECT_EQ(ParseOtlpEndpoint("http://x:1/own/path")->base, "http://x:1");
}

TEST(OtlpEndpointTest, ABaseEndpointKeepsItsPath) {
  EXPECT_EQ(ParseOtlpBaseEndpoint("http://x:1")->url(), "http://x:1/v1/traces");
  EXPECT_EQ(ParseOtlpBaseEndpoint("http://x:1/otlp/")->url(), "http://x:1/otlp/v1/traces");
}

TEST(OtlpEndpointTest, ErrorsQuoteTheText) {
  for (const char* text : {"", "collector", "collector:", ":4318", "collector:0", "collector:70000", "http://",
                           "ftp://x", "http://user:secret@x", "http://x/a?b", "http://x/a b",
                           "collector:4318/v1/traces", "http://[::1", "http://[]:1", "x y:1"}) {
    const auto endpoint = ParseOtlpEndpoint(text);
    EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(endpoint.status().message(),
              std::string("must be HOST:PORT or http[s]://HOST[:PORT][/PATH], got \"") + text + "\"");
  }
}

}  // namespace
}  // namespace spotlight::server
