#include "engine/tokenizer/chat_template.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tokenizer/golden_file.h"

namespace spotlight::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<std::unique_ptr<ChatTemplate>> Make(const nlohmann::json& golden) {
  if (golden.contains("folder")) return ChatTemplate::Load(TestDataPath(golden["folder"]));
  const std::string source = ReadTestData("chat_templates/" + golden["template"].get<std::string>());
  return ChatTemplate::Create(source, golden["bos"].get<std::string>(), golden["eos"].get<std::string>());
}

// A model folder made of the files given.
class ChatTemplateFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
  }
  std::string Render() {
    auto loaded = ChatTemplate::Load(folder_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return (*loaded)->Render({{"user", "hi"}}, true).value();
  }
  std::string LoadError() {
    const absl::Status status = ChatTemplate::Load(folder_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  std::string folder_;
};

std::string RenderError(const std::string& source) {
  const auto made = ChatTemplate::Create(source, "", "");
  EXPECT_TRUE(made.ok()) << made.status();
  const auto text = (*made)->Render({{"user", "hi"}}, true);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(text.status().message());
}

TEST(ChatTemplateTest, RenderedPromptsEqualThoseOfTransformers) {
  int num_refused = 0;
  for (const auto& golden : ReadGoldenCases("chat_templates")) {
    const auto made = Make(golden);
    ASSERT_TRUE(made.ok()) << made.status();
    std::vector<ChatMessage> messages;
    for (const auto& message : golden["messages"]) messages.push_back({message["role"], message["content"]});
    const auto text = (*made)->Render(messages, golden["add_generation_prompt"]);
    if (golden.contains("error")) {
      ++num_refused;
      EXPECT_EQ(text.status().message(), "chat template: " + golden["error"].get<std::string>());
      continue;
    }
    ASSERT_TRUE(text.ok()) << text.status() << golden;
    EXPECT_EQ(*text, golden["rendered"].get<std::string>()) << golden;
  }
  EXPECT_GT(num_refused, 0);
}

TEST(ChatTemplateTest, PassesOnTheTemplatesOwnRefusal) {
  EXPECT_EQ(RenderError("{{ raise_exception('roles must alternate') }}"), "chat template: roles must alternate");
}

TEST(ChatTemplateTest, SaysWhatIsWrongInATemplateThatFails) {
  EXPECT_THAT(RenderError("{{ messages[0].content + 1 }}"), StartsWith("chat template: "));
  EXPECT_THAT(RenderError("{{ no_such_function() }}"), HasSubstr("no_such_function"));
  EXPECT_THAT(RenderError("{{ messages | no_such_filter }}"), HasSubstr("no_such_filter"));
}

TEST(ChatTemplateTest, RefusesATemplateThatCannotBeParsed) {
  for (const char* source : {"{% for x in %}", "{% if true %}", "{{ 'open", "{% nonsense %}", "\xff"}) {
    const auto made = ChatTemplate::Create(source, "", "");
    EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(std::string(made.status().message()), StartsWith("chat template: "));
  }
}

TEST(ChatTemplateTest, EndsARecursionThatDoesNotEnd) {
  EXPECT_THAT(RenderError("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), HasSubstr("recursion"));
}

TEST(ChatTemplateTest, NamesTheMessageThatIsNotUtf8) {
  const auto made = ChatTemplate::Create("{{ messages[0].content }}", "", "").value();
  const auto text = made->Render({{"user", "fine"}, {"user", "\xff"}}, true);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(text.status().message(), "messages[1] is not UTF-8");
}

TEST(ChatTemplateTest, KeepsContentVerbatim) {
  const std::string content("<b>&\"'\\ {{ x }} {% y %} \0 \xe4\xbd\xa0", 30);
  const auto made = ChatTemplate::Create("[{{ messages[0]['content'] }}]", "", "").value();
  EXPECT_EQ(made->Render({{"user", content}}, true).value(), "[" + content + "]");
}

TEST(ChatTemplateTest, KnowsTheYear) {
  const auto made = ChatTemplate::Create("{{ strftime_now('%Y') | int >= 2024 }}", "", "").value();
  EXPECT_EQ(made->Render({{"user", "hi"}}, true).value(), "True");
}

TEST_F(ChatTemplateFolderTest, AFolderWithoutATemplateHasNone) {
  EXPECT_EQ(ChatTemplate::Load(folder_).value(), nullptr);
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": null})");
  EXPECT_EQ(ChatTemplate::Load(folder_).value(), nullptr);
}

TEST_F(ChatTemplateFolderTest, TheTemplateFileComesBeforeTheConfig) {
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "config"})");
  Write("chat_template.jinja", "{{ bos_token }}file{{ eos_token }}");
  EXPECT_EQ(Render(), "<s>file</s>");
}

TEST_F(ChatTemplateFolderTest, TheTemplateFileNeedsNoConfig) {
  Write("chat_template.jinja", "file{{ bos_token is defined }}");
  EXPECT_EQ(Render(), "fileFalse");
}

TEST_F(ChatTemplateFolderTest, TakesTheDefaultOfSeveralTemplates) {
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                                       {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(Render(), "plain");
}

TEST_F(ChatTemplateFolderTest, AFolderInPlaceOfAFileIsAnErrorAndNoException) {
  std::filesystem::create_directory(folder_ + "/tokenizer_config.json");
  EXPECT_EQ(LoadError(), folder_ + "/tokenizer_config.json: is not a file");
  std::filesystem::remove(folder_ + "/tokenizer_config.json");
  std::filesystem::create_directory(folder_ + "/chat_template.jinja");
  EXPECT_EQ(LoadError(), folder_ + "/chat_template.jinja: is not a file");
}

TEST_F(ChatTemplateFolderTest, NamesTheFileAndTheReason) {
  const std::string path = folder_ + "/tokenizer_config.json";
  Write("tokenizer_config.json", "{");
  EXPECT_EQ(LoadError(), path + ": is not a JSON object");
  Write("tokenizer_config.json", R"({"chat_template": 7})");
  EXPECT_EQ(LoadError(), path + ": chat_template is neither a string nor a list");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_EQ(LoadError(), path + ": chat_template is a list without a \"default\"");
  Write("tokenizer_config.json", R"({"chat_template": "x", "eos_token": [1]})");
  EXPECT_EQ(LoadError(), path + ": eos_token is neither a string nor an object with a string content");
  Write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_THAT(LoadError(), StartsWith(path + ": chat template: "));
  Write("chat_template.jinja", "{% if %}");
  EXPECT_THAT(LoadError(), StartsWith(folder_ + "/chat_template.jinja: chat template: "));
}

}  // namespace
}  // namespace spotlight::engine
