#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/spotlight_runner.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

std::string TemporaryFile(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::vector<nlohmann::json> JsonLines(const std::string& text) {
  std::vector<nlohmann::json> objects;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) objects.push_back(nlohmann::json::parse(line));
  return objects;
}

class GenerateCommandTest : public ::testing::Test {
 protected:
  SpotlightResult Generate(std::vector<std::string> flags, const SpotlightInput& input = {}) {
    flags.insert(flags.begin(), "generate");
    return RunSpotlight(server_.address(), flags, input);
  }

  void AddStream(std::vector<v1::GenerateStreamResponse> messages) {
    server_.AddStream({std::move(messages), {}, false});
  }

  FakeGenerationServer server_;
};

TEST_F(GenerateCommandTest, StreamsTextToStdoutAndFiguresToStderr) {
  AddStream({TextMessage("Paris", 1), TextMessage(" it is", 2), LastMessage(v1::FINISH_REASON_STOP)});
  const SpotlightResult result = Generate({"--prompt", "Where?"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "Paris it is\n");
  EXPECT_EQ(result.err,
            "tokens:    5 prompt + 3 generated, finish: stop, seed: 18446744073709551615\n"
            "speed:     40.0 tokens/s, 25 ms between tokens, first token after 100 ms (queued 1 ms)\n"
            "retrieval: dense (no hash weights)\n");
}

TEST_F(GenerateCommandTest, QuietPrintsTheTextAlone) {
  AddStream({TextMessage("line\n", 1), LastMessage(v1::FINISH_REASON_LENGTH)});
  const SpotlightResult result = Generate({"--prompt", "x", "--quiet"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "line\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(GenerateCommandTest, FlagsBecomeTheRequest) {
  AddStream({LastMessage(v1::FINISH_REASON_STOP)});
  const SpotlightResult result = Generate({"--prompt",
                                           "hi",
                                           "--max-tokens",
                                           "7",
                                           "--min-tokens",
                                           "2",
                                           "--temperature",
                                           "0.5",
                                           "--top-p",
                                           "0.9",
                                           "--top-k",
                                           "40",
                                           "--min-p",
                                           "0.25",
                                           "--repetition-penalty",
                                           "1.5",
                                           "--presence-penalty",
                                           "-1",
                                           "--frequency-penalty",
                                           "2",
                                           "--seed",
                                           "0",
                                           "--stop",
                                           "END",
                                           "--stop",
                                           "{}",
                                           "--stop-token-id",
                                           "3",
                                           "--include-stop",
                                           "--ignore-eos",
                                           "--logprobs",
                                           "4",
                                           "--retrieval",
                                           "sparse",
                                           "--budget",
                                           "0.02",
                                           "--min-selected",
                                           "96",
                                           "--sink-tokens",
                                           "0",
                                           "--recent-tokens",
                                           "32",
                                           "--no-retrieval-stats",
                                           "--n",
                                           "3",
                                           "--echo",
                                           "--prompt-logprobs",
                                           "2",
                                           "--truncate-prompt-tokens",
                                           "100",
                                           "--cache-salt",
                                           "tenant",
                                           "--bypass-prefix-cache",
                                           "--priority",
                                           "-5",
                                           "--request-id",
                                           "r1",
                                           "--model",
                                           "m",
                                           "--logit-bias",
                                           "5=-2.5",
                                           "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  v1::GenerateRequest expected;
  expected.set_request_id("r1");
  expected.set_model("m");
  expected.set_text("hi");
  v1::Sampling& sampling = *expected.mutable_sampling();
  sampling.set_temperature(0.5);
  sampling.set_top_p(0.9);
  sampling.set_top_k(40);
  sampling.set_min_p(0.25);
  sampling.set_repetition_penalty(1.5);
  sampling.set_presence_penalty(-1);
  sampling.set_frequency_penalty(2);
  sampling.set_seed(0);
  (*sampling.mutable_logit_bias())[5] = -2.5;
  v1::Stopping& stopping = *expected.mutable_stopping();
  stopping.set_max_tokens(7);
  stopping.set_min_tokens(2);
  stopping.add_stop("END");
  stopping.add_stop("{}");
  stopping.add_stop_token_ids(3);
  stopping.set_include_stop(true);
  stopping.set_ignore_eos(true);
  expected.mutable_retrieval()->set_mode(v1::RETRIEVAL_MODE_SPARSE);
  expected.mutable_retrieval()->set_budget_ratio(0.02);
  expected.mutable_retrieval()->set_min_tokens(96);
  expected.mutable_retrieval()->set_sink_tokens(0);
  expected.mutable_retrieval()->set_recent_tokens(32);
  expected.mutable_retrieval()->set_return_stats(false);
  sampling.set_n(3);
  expected.set_echo(true);
  expected.set_prompt_logprobs(2);
  expected.set_truncate_prompt_tokens(100);
  expected.set_cache_salt("tenant");
  expected.set_bypass_prefix_cache(true);
  expected.set_priority(-5);
  expected.set_logprobs(4);
  expected.set_return_token_ids(true);
  google::protobuf::util::MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  ASSERT_EQ(server_.generate_requests().size(), 1);
  EXPECT_TRUE(differencer.Compare(expected, server_.generate_requests()[0])) << difference;
}

TEST_F(GenerateCommandTest, FlagsNotGivenLeaveTheServersDefaults) {
  AddStream({LastMessage(v1::FINISH_REASON_STOP)});
  ASSERT_EQ(Generate({"--prompt", "hi"}).exit_code, 0);
  const v1::GenerateRequest request = server_.generate_requests()[0];
  EXPECT_FALSE(request.sampling().has_temperature());
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_FALSE(request.stopping().has_max_tokens());
  EXPECT_FALSE(request.retrieval().has_budget_ratio());
  EXPECT_FALSE(request.has_logprobs());
}

v1::GenerateStreamResponse Of(int index, v1::GenerateStreamResponse message) {
  message.set_index(index);
  return message;
}

TEST_F(GenerateCommandTest, SamplesAreWrittenOneAfterAnotherHoweverTheyCome) {
  v1::GenerateStreamResponse first;
  first.mutable_prompt_info()->set_text("Who");
  v1::GenerateStreamResponse end_of_two = Of(2, LastMessage(v1::FINISH_REASON_LENGTH));
  end_of_two.clear_usage();
  v1::GenerateStreamResponse end_of_zero = Of(0, LastMessage(v1::FINISH_REASON_STOP));
  end_of_zero.clear_usage();
  v1::GenerateStreamResponse end_of_one = Of(1, LastMessage(v1::FINISH_REASON_STOP));
  end_of_one.set_seed(7);
  end_of_one.mutable_usage()->set_completion_tokens(6);
  AddStream({first, Of(0, TextMessage("a", 1)), Of(1, TextMessage("b\n", 2)), Of(2, TextMessage("c", 3)), end_of_two,
             Of(0, TextMessage("aa", 4)), end_of_zero, Of(1, TextMessage("bb", 5)), end_of_one});
  const SpotlightResult result = Generate({"--prompt", "Who", "--echo", "--n", "3"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "Who\n--- sample 0\naaa\n--- sample 1\nb\nbb\n--- sample 2\nc\n");
  EXPECT_EQ(result.err,
            "tokens:    5 prompt + 6 generated in 3 samples\n"
            "sample 2:  finish: length, seed: 18446744073709551615, 40.0 tokens/s, 25 ms between tokens, first token "
            "after 100 ms (queued 1 ms)\n"
            "sample 0:  finish: stop, seed: 18446744073709551615, 40.0 tokens/s, 25 ms between tokens, first token "
            "after 100 ms (queued 1 ms)\n"
            "sample 1:  finish: stop, seed: 7, 40.0 tokens/s, 25 ms between tokens, first token after 100 ms (queued "
            "1 ms)\n");
}

TEST_F(GenerateCommandTest, JsonGivesOneObjectForEachMessage) {
  v1::GenerateStreamResponse first = TextMessage("\"\xF0\x9F\x91\xA9", 11);
  first.set_request_id("r-1");
  first.mutable_prompt_info()->set_prompt_tokens(5);
  v1::TokenLogprob* logprob = first.add_logprobs();
  logprob->set_token_id(11);
  logprob->set_logprob(-0.1f);
  logprob->add_top()->set_logprob(-std::numeric_limits<float>::infinity());
  AddStream({first, TextMessage("\xE2\x80\x8D\xF0\x9F\x94\xAC\n", 12), LastMessage(v1::FINISH_REASON_LENGTH)});
  const SpotlightResult result = Generate({"--prompt", "x", "--json"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("\xF0\x9F\x91\xA9"));  // not escaped
  const std::vector<nlohmann::json> lines = JsonLines(result.out);
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0]["request_id"], "r-1");
  EXPECT_EQ(lines[0]["prompt_info"]["prompt_tokens"], 5);
  EXPECT_EQ(lines[0]["token_ids"], nlohmann::json({11}));
  EXPECT_EQ(lines[0]["logprobs"][0]["logprob"].dump(), "-0.1");
  EXPECT_TRUE(lines[0]["logprobs"][0]["top"][0]["logprob"].is_null());
  EXPECT_FALSE(lines[0].contains("finish_reason"));
  // A woman scientist is three code points in two messages, and comes out whole.
  EXPECT_EQ(lines[0]["text"].get<std::string>() + lines[1]["text"].get<std::string>(),
            "\"\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x94\xAC\n");
  EXPECT_EQ(lines[2]["text"], "");
  EXPECT_EQ(lines[2]["finish_reason"], "length");
  EXPECT_EQ(lines[2]["seed"], 18446744073709551615u);
  EXPECT_EQ(lines[2]["usage"]["cached_prompt_tokens"], 0);
  EXPECT_EQ(lines[2]["timings"]["time_to_first_token_seconds"], 0.1);
  EXPECT_EQ(lines[2]["retrieval"]["dense_reason"], "no_hash");
}

TEST_F(GenerateCommandTest, ReadsEveryPromptSource) {
  const std::string text_file = TemporaryFile("prompt.txt", "two\nlines\n\n");
  const std::string chat_file =
      TemporaryFile("chat.json", R"([{"role": "system", "content": "s"}, {"role": "user", "content": "\u00e9"}])");
  for (int i = 0; i < 6; ++i) AddStream({LastMessage(v1::FINISH_REASON_STOP)});
  EXPECT_EQ(Generate({"--prompt-file", text_file}).exit_code, 0);
  EXPECT_EQ(Generate({"--prompt", "-"}, {"from stdin\n"}).exit_code, 0);
  EXPECT_EQ(Generate({"--token-ids", "1,2,3"}).exit_code, 0);
  EXPECT_EQ(Generate({"--token-ids", "-"}, {"4 5"}).exit_code, 0);
  EXPECT_EQ(Generate({"--chat-file", chat_file}).exit_code, 0);
  EXPECT_EQ(Generate({"--prompt", ""}).exit_code, 0);
  const std::vector<v1::GenerateRequest> requests = server_.generate_requests();
  ASSERT_EQ(requests.size(), 6);
  EXPECT_EQ(requests[0].text(), "two\nlines\n");
  EXPECT_EQ(requests[1].text(), "from stdin");
  EXPECT_THAT(requests[2].token_ids().ids(), ElementsAre(1, 2, 3));
  EXPECT_THAT(requests[3].token_ids().ids(), ElementsAre(4, 5));
  ASSERT_EQ(requests[4].chat().messages_size(), 2);
  EXPECT_EQ(requests[4].chat().messages(1).role(), "user");
  EXPECT_EQ(requests[4].chat().messages(1).content(), "\xC3\xA9");
  EXPECT_EQ(requests[5].prompt_case(), v1::GenerateRequest::kText);
}

TEST_F(GenerateCommandTest, SendsAPromptLargerThanGrpcsDefaultLimit) {
  AddStream({LastMessage(v1::FINISH_REASON_STOP)});
  const std::string prompt(9 << 20, 'x');
  ASSERT_EQ(Generate({"--prompt", "-"}, {prompt}).exit_code, 0);
  EXPECT_EQ(server_.generate_requests()[0].text().size(), prompt.size());
}

TEST_F(GenerateCommandTest, WrongUsageIsOneLineAndExitCodeTwo) {
  const std::string bad_chat = TemporaryFile("bad.json", R"([{"role": "user", "content": ["a"]}])");
  const std::string not_utf8 = TemporaryFile("latin1.txt", "caf\xE9");
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{}, "no prompt; see --help"},
      {{"--prompt", "a", "--token-ids", "1"}, "--prompt and --token-ids cannot go together"},
      {{"--prompt", "a", "--temperature", "-1"}, "--temperature must be 0 or more, got -1"},
      {{"--prompt", "a", "--temperature", "inf"}, "--temperature takes a finite number"},
      {{"--prompt", "a", "--budget", "0"}, "--budget must be above 0, at most 1, got 0"},
      {{"--prompt", "a", "--max-token", "1"}, "did you mean --max-tokens?"},
      {{"--prompt", "a", "--retrieval", "fast"}, "--retrieval must be one of auto, sparse, dense"},
      {{"--prompt", "a", "--logit-bias", "x"}, "--logit-bias takes TOKEN_ID=NUMBER"},
      {{"--prompt", "a", "--logprobs", "2"}, "--logprobs shows its figures with --json only"},
      {{"--prompt", "a", "--prompt-logprobs", "2"}, "--prompt-logprobs shows its figures with --json only"},
      {{"--prompt", "a", "--n", "0"}, "--n must be 1 to 64, got 0"},
      {{"--prompt-file", "/nonexistent"}, "cannot open /nonexistent: No such file or directory"},
      {{"--prompt-file", "/"}, "cannot read /: Is a directory"},
      {{"--prompt-file", not_utf8}, "not valid UTF-8"},
      {{"--chat-file", bad_chat}, "message 0 needs a string \"content\""},
      {{"--token-ids", "1,a"}, "--token-ids takes token ids of 0 or more, got 'a'"},
  };
  for (const auto& [flags, message] : cases) {
    const SpotlightResult result = Generate(flags);
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_EQ(result.out, "") << message;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
  EXPECT_TRUE(server_.generate_requests().empty());
}

TEST_F(GenerateCommandTest, CtrlCCancelsTheStreamOnTheServer) {
  server_.AddStream({{TextMessage("so far", 1)}, {}, /*hold_open=*/true});
  SpotlightInput input;
  input.notify_at = "so far";
  const SpotlightResult result = Generate({"--prompt", "x"}, input);
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.out, "so far\n");
  EXPECT_EQ(result.err, "spotlight: cancelled\n");
  EXPECT_TRUE(server_.WaitForCancelledStreams(1));
}

TEST_F(GenerateCommandTest, CtrlCEndsTheReadingOfThePrompt) {
  SpotlightInput input;
  input.text = "half a prom";
  input.ends = false;
  input.interrupted = true;
  const SpotlightResult result = Generate({"--prompt", "-"}, input);
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err, "spotlight: cancelled\n");
}

TEST_F(GenerateCommandTest, AClosedOutputCancelsTheStreamInSilence) {
  server_.AddStream({{TextMessage("nobody reads", 1)}, {}, /*hold_open=*/true});
  SpotlightInput input;
  input.output_closed = true;
  const SpotlightResult result = Generate({"--prompt", "x"}, input);
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(server_.WaitForCancelledStreams(1));
}

TEST_F(GenerateCommandTest, APassedDeadlineHasItsOwnExitCode) {
  server_.AddStream({{}, {}, /*hold_open=*/true});
  const SpotlightResult result = Generate({"--prompt", "x", "--deadline", "0.05"});
  EXPECT_EQ(result.exit_code, 6);
  EXPECT_THAT(result.err, HasSubstr("DEADLINE_EXCEEDED"));
  EXPECT_TRUE(server_.WaitForCancelledStreams(1));
}

TEST_F(GenerateCommandTest, AFinishReasonCanBeTheFailure) {
  AddStream({TextMessage("a", 1), LastMessage(v1::FINISH_REASON_ABORTED)});
  EXPECT_EQ(Generate({"--prompt", "x"}).exit_code, 4);
  AddStream({TextMessage("a", 1), LastMessage(v1::FINISH_REASON_DEADLINE)});
  EXPECT_EQ(Generate({"--prompt", "x"}).exit_code, 6);
  AddStream({TextMessage("a", 1)});
  const SpotlightResult cut = Generate({"--prompt", "x"});
  EXPECT_EQ(cut.exit_code, 1);
  EXPECT_EQ(cut.err, "spotlight: the stream ended without a finish reason\n");
}

TEST_F(GenerateCommandTest, AStatusAfterTheTextKeepsTheTextAndTheFigures) {
  server_.AddStream({{TextMessage("kept", 1), LastMessage(v1::FINISH_REASON_ABORTED)},
                     grpc::Status(grpc::StatusCode::ABORTED, "aborted by request"),
                     false});
  const SpotlightResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.out, "kept\n");
  EXPECT_THAT(result.err, HasSubstr("spotlight: ABORTED: aborted by request\n"));
  EXPECT_THAT(result.err, HasSubstr("finish: aborted"));
}

}  // namespace
}  // namespace spotlight::testing
