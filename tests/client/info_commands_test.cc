// models, tokenize, detokenize, abort, loads, health, and the program itself.
#include "client/report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/spotlight_runner.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

class InfoCommandsTest : public ::testing::Test {
 protected:
  SpotlightResult Spotlight(const std::vector<std::string>& arguments, const SpotlightInput& input = {}) {
    return RunSpotlight(server_.address(), arguments, input);
  }

  static v1::GetModelInfoResponse Model() {
    v1::GetModelInfoResponse model;
    model.set_name("SmolLM2");
    model.set_num_parameters(134515008);
    model.set_num_layers(30);
    model.set_num_query_heads(9);
    model.set_num_kv_heads(3);
    model.set_head_dim(64);
    model.set_max_context_tokens(8192);
    model.add_eos_token_ids(2);
    model.add_eos_token_ids(0);
    return model;
  }

  FakeGenerationServer server_;
};

TEST_F(InfoCommandsTest, ModelsPrintsATable) {
  server_.set_model_info(Model());
  v1::GetServerInfoResponse info;
  info.set_version("0.1.0");
  info.set_uptime_seconds(3725.5);
  info.set_kv_cache_tokens(65536);
  server_.set_server_info(info);
  const SpotlightResult result = Spotlight({"models"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, AllOf(HasSubstr("  name           SmolLM2\n"), HasSubstr("134.5 million"),
                                HasSubstr("9 query, 3 key/value, of 64"), HasSubstr("end of sequence 2, 0"),
                                HasSubstr("dense (no hash weights)"), HasSubstr("1h2m5s"), HasSubstr("65536 tokens")));
}

TEST_F(InfoCommandsTest, ModelsSaysWhatIsHashed) {
  v1::GetModelInfoResponse model = Model();
  for (int layer : {2, 3, 4, 7}) model.mutable_hash()->add_layers(layer);
  model.mutable_hash()->set_hash_bits(128);
  model.mutable_hash()->set_budget_ratio(0.02);
  server_.set_model_info(model);
  EXPECT_THAT(Spotlight({"models"}).out, AllOf(HasSubstr("layers 2-4, 7\n"), HasSubstr("2% of the context"),
                                               HasSubstr("UNTRAINED: the text's quality is meaningless")));
}

TEST_F(InfoCommandsTest, ModelsAsJson) {
  server_.set_model_info(Model());
  const SpotlightResult result = Spotlight({"models", "--json"});
  EXPECT_EQ(result.exit_code, 0);
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["model"]["name"], "SmolLM2");
  EXPECT_EQ(json["model"]["num_parameters"], 134515008);
  EXPECT_EQ(json["model"]["has_chat_template"], false);
  EXPECT_FALSE(json["model"].contains("hash"));
  EXPECT_TRUE(json["server"].contains("page_tokens"));
}

TEST_F(InfoCommandsTest, TokenizePrintsIdsThatGenerateTakes) {
  v1::TokenizeResponse tokens;
  for (int id : {5, 6, 7}) tokens.add_token_ids(id);
  tokens.set_max_context_tokens(64);
  server_.set_tokens(tokens);
  const SpotlightResult result = Spotlight({"tokenize", "--prompt", "-"}, {"hello\n"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "5,6,7\n");
  EXPECT_EQ(result.err, "3 tokens of at most 64\n");
  EXPECT_EQ(server_.tokenize_requests()[0].text(), "hello");

  const nlohmann::json json = nlohmann::json::parse(Spotlight({"tokenize", "--prompt", "x", "--json"}).out);
  EXPECT_EQ(json["count"], 3);
  EXPECT_EQ(json["token_ids"], nlohmann::json({5, 6, 7}));
}

TEST_F(InfoCommandsTest, TokenizeTakesAChat) {
  const SpotlightResult result =
      Spotlight({"tokenize", "--chat-file", "-"}, {R"([{"role": "user", "content": "hi"}])"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(server_.tokenize_requests()[0].chat().messages(0).content(), "hi");
}

TEST_F(InfoCommandsTest, DetokenizePrintsTheText) {
  server_.set_text("h\xC3\xA9llo \"you\"");
  EXPECT_EQ(Spotlight({"detokenize", "--token-ids", "1,2"}).out, "h\xC3\xA9llo \"you\"\n");
  const SpotlightResult json = Spotlight({"detokenize", "--token-ids", "-", "--json"}, {"3,4\n"});
  EXPECT_EQ(nlohmann::json::parse(json.out)["text"], "h\xC3\xA9llo \"you\"");
  EXPECT_THAT(server_.detokenize_requests()[1].token_ids(), ElementsAre(3, 4));
  EXPECT_EQ(Spotlight({"detokenize"}).exit_code, 2);
}

TEST_F(InfoCommandsTest, AbortNamesTheRequest) {
  const SpotlightResult result = Spotlight({"abort", "--request-id", "r-9"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "aborted r-9\n");
  EXPECT_THAT(server_.aborted(), ElementsAre("r-9"));
  EXPECT_EQ(Spotlight({"abort"}).exit_code, 2);
  server_.set_unary_status(grpc::Status(grpc::StatusCode::NOT_FOUND, "request_id: no request r-9"));
  EXPECT_EQ(Spotlight({"abort", "--request-id", "r-9"}).exit_code, 3);
}

TEST_F(InfoCommandsTest, LoadsPrintsTheFigures) {
  v1::GetLoadsResponse loads;
  loads.set_running_requests(3);
  loads.set_waiting_tokens(900);
  loads.set_kv_cache_usage_ratio(0.254);
  server_.set_loads(loads);
  EXPECT_THAT(Spotlight({"loads"}).out,
              AllOf(HasSubstr("3 requests"), HasSubstr("900 tokens"), HasSubstr("25.4% used")));
  EXPECT_EQ(nlohmann::json::parse(Spotlight({"loads", "--json"}).out)["kv_cache_usage_ratio"], 0.254);
}

TEST_F(InfoCommandsTest, HealthExitsWithFiveUnlessServing) {
  using Health = grpc::health::v1::HealthCheckResponse;
  server_.set_health(Health::SERVING);
  SpotlightResult result = Spotlight({"health", "--service", "readiness"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "SERVING\n");
  EXPECT_THAT(server_.health_services(), ElementsAre("readiness"));
  server_.set_health(Health::NOT_SERVING);
  result = Spotlight({"health"});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(result.out, "NOT_SERVING\n");
}

TEST(ProgramTest, HelpOfTheProgramAndOfEveryCommandStatesTheExitCodes) {
  const SpotlightResult help = RunSpotlight("host:1", {"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, AllOf(HasSubstr("SPOTLIGHT_SERVER"), HasSubstr("\nExit codes\n")));
  for (const char* command : {"generate", "chat", "models", "tokenize", "detokenize", "abort", "loads", "health"}) {
    EXPECT_THAT(help.out, HasSubstr(std::string("\n  ") + command));
    const SpotlightResult result = RunSpotlight("host:1", {"help", command});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, AllOf(StartsWith(std::string("spotlight ") + command + ": "), HasSubstr("default host:1"),
                                  HasSubstr("\nExit codes\n")));
  }
}

TEST(ProgramTest, WrongCommandsAreOneLine) {
  EXPECT_EQ(RunSpotlight("host:1", {}).exit_code, 2);
  EXPECT_EQ(RunSpotlight("host:1", {"genrate"}).err, "spotlight: unknown command genrate; did you mean generate?\n");
  EXPECT_EQ(RunSpotlight("host:1", {"frobnicate"}).err,
            "spotlight: unknown command frobnicate; see spotlight --help\n");
  const SpotlightResult result = RunSpotlight("host:1", {"--json", "models"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("the command comes first"));
}

TEST(ProgramTest, SaysItsVersion) {
  const SpotlightResult result = RunSpotlight("host:1", {"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, MatchesRegex("spotlight [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(ReportTest, QualityHasALineOnceItWasSampled) {
  v1::GenerateStreamResponse last;
  v1::RetrievalStats& stats = *last.mutable_retrieval();
  stats.set_dense_steps(4);
  EXPECT_EQ(client::Report({last}), "retrieval: dense\n");
  stats.set_dense_reason(v1::DENSE_REASON_GUARDRAIL);
  v1::RetrievalQuality& quality = *stats.mutable_quality();
  quality.set_samples(3);
  quality.set_recall(0.714);
  quality.set_iou(0.55);
  quality.set_attention_mass(0.93);
  quality.set_min_attention_mass(0.8824);
  quality.set_output_error(0.0956);
  const std::string samples =
      "retrieval: dense (quality guardrail)\n"
      "quality:   3 samples: attention mass 0.930 (lowest 0.882), recall 0.71, IoU 0.55, output error 0.096";
  EXPECT_EQ(client::Report({last}), samples + "\n");
  stats.mutable_fallback()->set_after_tokens(120);
  EXPECT_EQ(client::Report({last}), samples + "; guardrail after 120 tokens: dense\n");
  stats.mutable_fallback()->set_budget_ratio(0.08);
  EXPECT_EQ(client::Report({last}), samples + "; guardrail after 120 tokens: budget raised to 0.08\n");
}

TEST(ReportTest, RetrievalIsToldInWords) {
  v1::RetrievalStats stats;
  EXPECT_EQ(client::DescribeRetrieval(stats), "no decode step");
  stats.set_sparse_steps(12);
  stats.set_selected_ratio(0.02);
  stats.set_kv_read_bytes(7);
  stats.set_kv_dense_equivalent_bytes(100);
  EXPECT_EQ(client::DescribeRetrieval(stats),
            "12 sparse steps, attended to 2.0% of context, KV bytes read 7% of dense");
  stats.set_dense_steps(3);
  stats.set_dense_reason(v1::DENSE_REASON_SHORT_CONTEXT);
  EXPECT_EQ(client::DescribeRetrieval(stats),
            "12 sparse + 3 dense steps (short context), attended to 2.0% of context, KV bytes read 7% of dense");
  stats.set_untrained_hash(true);
  EXPECT_THAT(client::DescribeRetrieval(stats), HasSubstr("untrained"));
  stats.Clear();
  stats.set_dense_steps(4);
  stats.set_dense_reason(v1::DENSE_REASON_REQUEST_OVERRIDE);
  EXPECT_EQ(client::DescribeRetrieval(stats), "dense (as requested)");
}

}  // namespace
}  // namespace spotlight::testing
