#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/spotlight_runner.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

// "role: content" of each message.
std::vector<std::string> History(const v1::GenerateRequest& request) {
  std::vector<std::string> history;
  for (const v1::ChatMessage& message : request.chat().messages()) {
    history.push_back(message.role() + ": " + message.content());
  }
  return history;
}

class ChatCommandTest : public ::testing::Test {
 protected:
  SpotlightResult Chat(std::vector<std::string> flags, const SpotlightInput& input) {
    flags.insert(flags.begin(), "chat");
    return RunSpotlight(server_.address(), flags, input);
  }

  void AddAnswer(const std::string& text) {
    server_.AddStream({{TextMessage(text, 1), LastMessage(v1::FINISH_REASON_STOP)}, {}, false});
  }

  FakeGenerationServer server_;
};

TEST_F(ChatCommandTest, EachTurnCarriesTheConversation) {
  AddAnswer("Goethe.");
  AddAnswer("In 1808.");
  const SpotlightResult result = Chat({"--system", "Be brief.", "--temperature", "0"}, {"Who wrote Faust?\n\nWhen?"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "Goethe.\nIn 1808.\n");
  EXPECT_EQ(result.err, "");
  const std::vector<v1::GenerateRequest> requests = server_.generate_requests();
  ASSERT_EQ(requests.size(), 2);
  EXPECT_THAT(History(requests[0]), ElementsAre("system: Be brief.", "user: Who wrote Faust?"));
  EXPECT_THAT(History(requests[1]),
              ElementsAre("system: Be brief.", "user: Who wrote Faust?", "assistant: Goethe.", "user: When?"));
  EXPECT_TRUE(requests[1].sampling().has_temperature());
}

TEST_F(ChatCommandTest, ResetForgetsAllButTheSystemMessage) {
  AddAnswer("a");
  AddAnswer("b");
  EXPECT_EQ(Chat({"--system", "s"}, {"one\n/reset\ntwo\n/exit\nthree\n"}).exit_code, 0);
  const std::vector<v1::GenerateRequest> requests = server_.generate_requests();
  ASSERT_EQ(requests.size(), 2);
  EXPECT_THAT(History(requests[1]), ElementsAre("system: s", "user: two"));
}

TEST_F(ChatCommandTest, TwoSlashesSendOne) {
  AddAnswer("a");
  EXPECT_EQ(Chat({}, {"//etc/hosts?\n"}).exit_code, 0);
  EXPECT_THAT(History(server_.generate_requests()[0]), ElementsAre("user: /etc/hosts?"));
}

TEST_F(ChatCommandTest, ATerminalGetsAGreetingAPromptAndHelp) {
  AddAnswer("yes");
  SpotlightInput input{"/help\n/rest\nhi\n"};
  input.is_terminal = true;
  const SpotlightResult result = Chat({"--timings"}, input);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "yes\n");
  EXPECT_THAT(result.err, EndsWith("> \n"));
  EXPECT_THAT(result.err, HasSubstr("fake at " + server_.address() + ", context of 64 tokens"));
  EXPECT_THAT(result.err, HasSubstr("/reset  forget the conversation"));
  EXPECT_THAT(result.err, HasSubstr("unknown command /rest"));
  EXPECT_THAT(result.err, HasSubstr("retrieval: dense (no hash weights)"));
}

TEST_F(ChatCommandTest, CtrlCStopsTheAnswerAndTheTerminalGoesOn) {
  server_.AddStream({{TextMessage("half an ans", 1)}, {}, /*hold_open=*/true});
  AddAnswer("whole");
  SpotlightInput input{"one\ntwo\n"};
  input.is_terminal = true;
  input.notify_at = "half an ans";
  const SpotlightResult result = Chat({}, input);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "half an ans\nwhole\n");
  EXPECT_TRUE(server_.WaitForCancelledStreams(1));
  EXPECT_THAT(History(server_.generate_requests()[1]), ElementsAre("user: one", "assistant: half an ans", "user: two"));
}

TEST_F(ChatCommandTest, CtrlCAtThePromptLeaves) {
  SpotlightInput input;
  input.ends = false;
  input.is_terminal = true;
  input.notify_at_stderr = "> ";
  const SpotlightResult result = Chat({}, input);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, EndsWith("> \n"));
  EXPECT_TRUE(server_.generate_requests().empty());
}

TEST_F(ChatCommandTest, AFailedTurnEndsAScriptButNotATerminal) {
  const grpc::Status too_long(grpc::StatusCode::INVALID_ARGUMENT, "prompt: 70 tokens, at most 64");
  server_.AddStream({{}, too_long, false});
  EXPECT_EQ(Chat({}, {"one\ntwo\n"}).exit_code, 3);
  EXPECT_EQ(server_.generate_requests().size(), 1);

  server_.AddStream({{}, too_long, false});
  AddAnswer("fine");
  SpotlightInput input{"one\ntwo\n"};
  input.is_terminal = true;
  const SpotlightResult result = Chat({}, input);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("fine\n"));
  EXPECT_THAT(result.err, HasSubstr("70 tokens, at most 64"));
  EXPECT_THAT(History(server_.generate_requests()[2]), ElementsAre("user: two"));
}

TEST_F(ChatCommandTest, AModelWithoutTemplateIsRefusedAtOnce) {
  v1::GetModelInfoResponse info;
  info.set_name("base");
  server_.set_model_info(info);
  const SpotlightResult result = Chat({}, {"one\n"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("the model base has no chat template"));
  EXPECT_TRUE(server_.generate_requests().empty());
}

TEST_F(ChatCommandTest, InvalidUtf8IsNotSent) {
  const SpotlightResult result = Chat({}, {"caf\xE9\n"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_TRUE(server_.generate_requests().empty());
}

}  // namespace
}  // namespace spotlight::testing
