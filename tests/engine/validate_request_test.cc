#include "engine/validate_request.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/admission/kv_capacity.h"
#include "engine/utf8.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

ModelInfo Model() {
  ModelInfo model;
  model.vocab_size = 512;
  model.max_context_tokens = 1000;
  return model;
}

GenerateRequest Good() {
  GenerateRequest request;
  request.request_id = "r";
  request.prompt = TextPrompt{"Hello"};
  return request;
}

struct BadCase {
  std::function<void(GenerateRequest*)> spoil;
  std::string message;
};

TEST(ValidateRequestTest, AcceptsWhatIsWithinTheBounds) {
  GenerateRequest request = Good();
  EXPECT_TRUE(ValidateRequest(request, Model()).ok());
  request.sampling.temperature = 0.0f;
  request.sampling.top_p = 1.0f;
  request.sampling.top_k = 0;
  request.sampling.min_p = 1.0f;
  request.sampling.repetition_penalty = 0.01f;
  request.sampling.presence_penalty = -2;
  request.sampling.logit_bias = {{511, -100.0f}};
  request.stopping.max_tokens = 1;
  request.stopping.min_tokens = 1;
  request.stopping.stop.assign(16, std::string(256, 'x'));
  request.stopping.stop_token_ids.assign(64, 511);
  request.retrieval.budget_ratio = 1.0;
  request.logprobs = 20;
  EXPECT_TRUE(ValidateRequest(request, Model()).ok());
}

TEST(ValidateRequestTest, NamesTheFieldTheBoundAndTheValue) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const std::vector<BadCase> cases = {
      {[](auto* r) { r->request_id = ""; }, "request_id: must be 1 to 256 bytes, got 0"},
      {[](auto* r) { r->prompt = TextPrompt{""}; }, "text: must not be empty"},
      {[](auto* r) { r->prompt = TextPrompt{"ab\xC3"}; }, "text: must be valid UTF-8; byte 2 is not"},
      {[](auto* r) { r->prompt = TokenPrompt{}; }, "token_ids.ids: must not be empty"},
      {[](auto* r) {
         r->prompt = TokenPrompt{{1, 512}};
       },
       "token_ids.ids[1]: must be in [0, 512), got 512"},
      {[](auto* r) { r->prompt = TokenPrompt{std::vector<int32_t>(1000, -1)}; },
       "token_ids: a prompt of 1000 tokens leaves no room for output in the context of 1000 tokens"},
      {[](auto* r) { r->prompt = TokenPrompt{{-1}}; }, "token_ids.ids[0]: must be in [0, 512), got -1"},
      {[](auto* r) { r->prompt = ChatPrompt{}; }, "chat.messages: must not be empty"},
      {[](auto* r) {
         r->prompt = ChatPrompt{{{"", "x"}}};
       },
       "chat.messages[0].role: must not be empty"},
      {[](auto* r) {
         r->prompt = ChatPrompt{{{"user", "\xFF"}}};
       },
       "chat.messages[0].content: must be valid UTF-8; byte 0 is not"},
      {[](auto* r) { r->sampling.temperature = -1.0f; }, "sampling.temperature: must be finite and >= 0, got -1"},
      {[=](auto* r) { r->sampling.temperature = nan; }, "sampling.temperature: must be finite and >= 0, got nan"},
      {[=](auto* r) { r->sampling.temperature = inf; }, "sampling.temperature: must be finite and >= 0, got inf"},
      {[](auto* r) { r->sampling.top_p = 0.0f; }, "sampling.top_p: must be in (0, 1], got 0"},
      {[=](auto* r) { r->sampling.top_p = nan; }, "sampling.top_p: must be in (0, 1], got nan"},
      {[](auto* r) { r->sampling.top_k = -5; }, "sampling.top_k: must be >= 0, got -5"},
      {[](auto* r) { r->sampling.min_p = 1.5f; }, "sampling.min_p: must be in [0, 1], got 1.5"},
      {[](auto* r) { r->sampling.repetition_penalty = 0.0f; },
       "sampling.repetition_penalty: must be in [0.01, 100], got 0"},
      {[](auto* r) { r->sampling.repetition_penalty = 1e-40f; },
       "sampling.repetition_penalty: must be in [0.01, 100], got 9.99995e-41"},
      {[](auto* r) { r->sampling.repetition_penalty = 101.0f; },
       "sampling.repetition_penalty: must be in [0.01, 100], got 101"},
      {[=](auto* r) { r->sampling.repetition_penalty = nan; },
       "sampling.repetition_penalty: must be in [0.01, 100], got nan"},
      {[](auto* r) { r->sampling.presence_penalty = 3; }, "sampling.presence_penalty: must be in [-2, 2], got 3"},
      {[=](auto* r) { r->sampling.frequency_penalty = nan; },
       "sampling.frequency_penalty: must be in [-2, 2], got nan"},
      {[](auto* r) {
         r->sampling.logit_bias.assign(301, {1, 0.0f});
       },
       "sampling.logit_bias: must be at most 300 entries, got 301"},
      {[](auto* r) {
         r->sampling.logit_bias.assign(1000000, {1, 0.0f});
       },
       "sampling.logit_bias: must be at most 300 entries, got 1000000"},
      {[](auto* r) {
         r->sampling.logit_bias = {{512, 0.0f}};
       },
       "sampling.logit_bias: must be in [0, 512), got 512"},
      {[](auto* r) {
         r->sampling.logit_bias = {{7, 101.0f}};
       },
       "sampling.logit_bias[7]: must be in [-100, 100], got 101"},
      {[](auto* r) { r->stopping.max_tokens = 0; }, "stopping.max_tokens: must be at least 1, got 0"},
      {[](auto* r) { r->stopping.min_tokens = -1; }, "stopping.min_tokens: must be >= 0, got -1"},
      {[](auto* r) { r->stopping.max_tokens = 3, r->stopping.min_tokens = 4; },
       "stopping.min_tokens: must be at most max_tokens, 3, got 4"},
      {[](auto* r) { r->stopping.stop.assign(10000, "x"); }, "stopping.stop: must be at most 16 strings, got 10000"},
      {[](auto* r) {
         r->stopping.stop = {"a", ""};
       },
       "stopping.stop[1]: must be 1 to 256 bytes, got 0"},
      {[](auto* r) { r->stopping.stop = {std::string(257, 'x')}; },
       "stopping.stop[0]: must be 1 to 256 bytes, got 257"},
      {[](auto* r) { r->stopping.stop = {"\x80"}; }, "stopping.stop[0]: must be valid UTF-8; byte 0 is not"},
      {[](auto* r) { r->stopping.stop_token_ids.assign(65, 1); },
       "stopping.stop_token_ids: must be at most 64 ids, got 65"},
      {[](auto* r) { r->stopping.stop_token_ids = {9000}; },
       "stopping.stop_token_ids[0]: must be in [0, 512), got 9000"},
      {[](auto* r) { r->retrieval.budget_ratio = 0.0; }, "retrieval.budget_ratio: must be in (0, 1], got 0"},
      {[](auto* r) { r->retrieval.min_tokens = 0; }, "retrieval.min_tokens: must be in [1, 1048576], got 0"},
      {[](auto* r) { r->retrieval.sink_tokens = -1; }, "retrieval.sink_tokens: must be in [0, 1048576], got -1"},
      {[](auto* r) { r->retrieval.recent_tokens = (1 << 20) + 1; },
       "retrieval.recent_tokens: must be in [1, 1048576], got 1048577"},
      {[](auto* r) { r->logprobs = 21; }, "logprobs: must be in [0, 20], got 21"},
      {[](auto* r) { r->prompt_logprobs = -1; }, "prompt_logprobs: must be in [0, 20], got -1"},
      {[](auto* r) { r->truncate_prompt_tokens = 0; }, "truncate_prompt_tokens: must be at least 1, got 0"},
      {[](auto* r) { r->priority = 101; }, "priority: must be in [-100, 100], got 101"},
      {[](auto* r) { r->sampling.n = 0; }, "sampling.n: must be in [1, 64], got 0"},
      {[](auto* r) { r->sampling.n = 65; }, "sampling.n: must be in [1, 64], got 65"},
      {[](auto* r) { r->priority = -101; }, "priority: must be in [-100, 100], got -101"},
  };
  for (const BadCase& bad : cases) {
    GenerateRequest request = Good();
    bad.spoil(&request);
    const absl::Status status = ValidateRequest(request, Model());
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << bad.message;
    EXPECT_EQ(status.message(), bad.message);
  }
}

TEST(ValidateEncodedPromptTest, NeedsRoomForOneTokenInContextAndCache) {
  const Prompt prompt = TextPrompt{"x"};
  const auto validate = [&](int32_t num_tokens, int64_t cache_tokens) {
    return ValidateEncodedPrompt(prompt, std::vector<int32_t>(num_tokens, 1), Model(), cache_tokens);
  };
  EXPECT_TRUE(validate(999, 1000).ok());
  EXPECT_EQ(validate(0, 1000).code(), StatusCode::kInvalidArgument);
  const absl::Status too_long = validate(1000, 5000);
  EXPECT_EQ(too_long.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(too_long.message(),
            "text: a prompt of 1000 tokens leaves no room for output in the context of 1000 tokens");
  // Not RESOURCE_EXHAUSTED, which clients retry: it will never fit.
  const absl::Status too_large = validate(640, 640);
  EXPECT_EQ(too_large.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(too_large.message(),
            "text: a prompt of 640 tokens leaves no room for output in the KV cache of 640 tokens");
  EXPECT_TRUE(IsOverKvCapacity(too_large));
  EXPECT_FALSE(IsOverKvCapacity(too_long));
}

TEST(ValidateEncodedPromptTest, AContextCutToTheCacheIsAMatterOfTheCache) {
  ModelInfo model = Model();
  model.context_is_cache = true;
  const std::string message = "a prompt of 1000 tokens leaves no room for output in the KV cache of 1000 tokens";
  const std::vector<int32_t> ids(1000, 1);
  for (const absl::Status& status :
       {ValidateEncodedPrompt(TextPrompt{"x"}, ids, model, 1000), ValidatePrompt(TokenPrompt{ids}, model)}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().substr(status.message().find("a prompt")), message);
    EXPECT_TRUE(IsOverKvCapacity(status));
  }
}

TEST(ValidateEncodedPromptTest, RefusesTokensThatTheModelHasNot) {
  const absl::Status status = ValidateEncodedPrompt(TextPrompt{"x"}, {1, 512}, Model(), 1000);
  EXPECT_EQ(status, absl::InvalidArgumentError("text: holds token 512, and the model's vocabulary ends at 512"));
}

TEST(ResolveSamplingTest, TakesTheRequestThenTheModelThenTheApi) {
  SamplingParams request, model;
  request.temperature = 0.5f;
  model.temperature = 0.7f;
  model.top_p = 0.8f;
  model.min_p = 0.05f;
  const SamplingParams resolved = ResolveSampling(request, model);
  EXPECT_EQ(resolved.temperature, 0.5f);
  EXPECT_EQ(resolved.top_p, 0.8f);
  EXPECT_EQ(resolved.top_k, 0);
  EXPECT_EQ(resolved.min_p, 0.05f);
  EXPECT_EQ(ResolveSampling(request, SamplingParams()).min_p, 0.0f);
  EXPECT_EQ(resolved.repetition_penalty, 1.0f);
}

TEST(Utf8Test, FindsTheFirstByteThatIsWrong) {
  EXPECT_TRUE(IsValidUtf8("plain, \xC3\xA9, \xE4\xB8\xAD, \xF0\x9F\x98\x80"));
  EXPECT_TRUE(IsValidUtf8(std::string("\0", 1)));
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC3", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE4\xB8"}) {
    EXPECT_EQ(ValidUtf8Prefix(std::string("ok") + bad), 2u);
  }
}

}  // namespace
}  // namespace spotlight::engine
