#include "server/proto_conversion.h"

#include <limits>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"
#include "server/grpc_status.h"
#include "server/wire_message.h"

namespace spotlight::server {
namespace {

v1::GenerateRequest TextRequest() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}

engine::ModelInfo Model() {
  engine::ModelInfo model;
  model.name = "m";
  model.max_context_tokens = 100;
  return model;
}

TEST(ProtoConversionTest, KeepsEveryField) {
  v1::GenerateRequest request;
  request.set_request_id("a");
  request.set_model("m");
  request.mutable_token_ids()->add_ids(3);
  auto* sampling = request.mutable_sampling();
  sampling->set_temperature(0.5f);
  sampling->set_top_p(0.9f);
  sampling->set_top_k(7);
  sampling->set_min_p(0.1f);
  sampling->set_repetition_penalty(1.1f);
  sampling->set_presence_penalty(0.2f);
  sampling->set_frequency_penalty(0.3f);
  sampling->set_seed(0);
  (*sampling->mutable_logit_bias())[5] = -2;
  auto* stopping = request.mutable_stopping();
  stopping->set_max_tokens(8);
  stopping->set_min_tokens(2);
  stopping->add_stop("END");
  stopping->add_stop_token_ids(4);
  stopping->set_include_stop(true);
  stopping->set_ignore_eos(true);
  request.mutable_retrieval()->set_mode(v1::RETRIEVAL_MODE_SPARSE);
  request.mutable_retrieval()->set_budget_ratio(0.05);
  request.mutable_retrieval()->set_min_tokens(96);
  request.mutable_retrieval()->set_sink_tokens(0);
  request.mutable_retrieval()->set_recent_tokens(32);
  request.set_logprobs(0);
  request.set_prompt_logprobs(2);
  request.set_echo(true);
  request.set_truncate_prompt_tokens(50);
  request.set_cache_salt("tenant");
  request.set_bypass_prefix_cache(true);
  request.set_priority(-3);
  sampling->set_n(4);

  const auto converted = ToEngineRequest(&request, Model());
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(converted->request_id, "a");
  EXPECT_EQ(std::get<engine::TokenPrompt>(converted->prompt).token_ids, std::vector<int32_t>{3});
  EXPECT_EQ(*converted->sampling.temperature, 0.5f);
  EXPECT_EQ(*converted->sampling.top_p, 0.9f);
  EXPECT_EQ(*converted->sampling.top_k, 7);
  EXPECT_EQ(*converted->sampling.min_p, 0.1f);
  EXPECT_EQ(*converted->sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(converted->sampling.presence_penalty, 0.2f);
  EXPECT_EQ(converted->sampling.frequency_penalty, 0.3f);
  EXPECT_EQ(*converted->sampling.seed, 0u);
  ASSERT_EQ(converted->sampling.logit_bias.size(), 1u);
  EXPECT_EQ(converted->sampling.logit_bias[0], std::make_pair(5, -2.0f));
  EXPECT_EQ(*converted->stopping.max_tokens, 8);
  EXPECT_EQ(converted->stopping.min_tokens, 2);
  EXPECT_EQ(converted->stopping.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(converted->stopping.stop_token_ids, std::vector<int32_t>{4});
  EXPECT_TRUE(converted->stopping.include_stop);
  EXPECT_TRUE(converted->stopping.ignore_eos);
  EXPECT_EQ(converted->retrieval.mode, engine::RetrievalMode::kSparse);
  EXPECT_EQ(*converted->retrieval.budget_ratio, 0.05);
  EXPECT_EQ(*converted->retrieval.min_tokens, 96);
  EXPECT_EQ(*converted->retrieval.sink_tokens, 0);
  EXPECT_EQ(*converted->retrieval.recent_tokens, 32);
  EXPECT_EQ(*converted->logprobs, 0);
  EXPECT_EQ(*converted->prompt_logprobs, 2);
  EXPECT_TRUE(converted->echo);
  EXPECT_EQ(*converted->truncate_prompt_tokens, 50);
  EXPECT_EQ(converted->cache_salt, "tenant");
  EXPECT_TRUE(converted->bypass_prefix_cache);
  EXPECT_EQ(converted->priority, -3);
  EXPECT_EQ(converted->sampling.n, 4);
}

TEST(ProtoConversionTest, AbsentScalarsStayAbsent) {
  v1::GenerateRequest request = TextRequest();
  const auto converted = ToEngineRequest(&request, Model());
  ASSERT_TRUE(converted.ok());
  EXPECT_FALSE(converted->sampling.temperature.has_value());
  EXPECT_FALSE(converted->sampling.min_p.has_value());
  EXPECT_FALSE(converted->sampling.seed.has_value());
  EXPECT_FALSE(converted->stopping.max_tokens.has_value());
  EXPECT_FALSE(converted->retrieval.budget_ratio.has_value());
  EXPECT_FALSE(converted->retrieval.min_tokens.has_value());
  EXPECT_FALSE(converted->retrieval.sink_tokens.has_value());
  EXPECT_FALSE(converted->retrieval.recent_tokens.has_value());
  EXPECT_FALSE(converted->logprobs.has_value());
  EXPECT_FALSE(converted->prompt_logprobs.has_value());
  EXPECT_FALSE(converted->truncate_prompt_tokens.has_value());
  EXPECT_EQ(converted->sampling.n, 1);
  EXPECT_EQ(converted->retrieval.mode, engine::RetrievalMode::kAuto);
}

TEST(ProtoConversionTest, EachRequestWithoutAnIdGetsItsOwn) {
  v1::GenerateRequest first = TextRequest();
  v1::GenerateRequest second = TextRequest();
  const std::string first_id = ToEngineRequest(&first, Model())->request_id;
  EXPECT_EQ(first_id.size(), 28u);
  EXPECT_NE(first_id, ToEngineRequest(&second, Model())->request_id);
}

// The field that a bad request's error names, after its trip through gRPC's status.
std::string BadField(v1::GenerateRequest request) {
  const grpc::Status status = ToGrpcStatus(ToEngineRequest(&request, Model()).status());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status proto;
  google::rpc::BadRequest bad_request;
  if (!proto.ParseFromString(status.error_details()) || proto.details().empty()) return "";
  EXPECT_TRUE(proto.details(0).UnpackTo(&bad_request));
  return bad_request.field_violations(0).field();
}

TEST(ProtoConversionTest, BadRequestsNameTheField) {
  v1::GenerateRequest request;
  EXPECT_EQ(BadField(request), "prompt");
  request = TextRequest();
  request.mutable_retrieval()->set_mode(static_cast<v1::RetrievalMode>(9));
  EXPECT_EQ(BadField(request), "retrieval.mode");
  request = TextRequest();
  (*request.mutable_sampling()->mutable_logit_bias())[-1] = 1;
  EXPECT_EQ(BadField(request), "sampling.logit_bias");
  request = TextRequest();
  request.set_request_id(std::string(257, 'x'));
  EXPECT_EQ(BadField(request), "request_id");
  request = TextRequest();
  request.set_model(std::string(257, 'x'));
  EXPECT_EQ(BadField(request), "model");
  request = TextRequest();
  request.set_cache_salt(std::string(257, 'x'));
  EXPECT_EQ(BadField(request), "cache_salt");
}

TEST(ProtoConversionTest, ATruncatedPromptOfTokensKeepsItsLast) {
  v1::GenerateRequest request;
  for (int id = 0; id < 200; ++id) request.mutable_token_ids()->add_ids(id);
  EXPECT_EQ(BadField(request), "token_ids");
  request.set_truncate_prompt_tokens(3);
  EXPECT_EQ(std::get<engine::TokenPrompt>(ToEngineRequest(&request, Model())->prompt).token_ids,
            (std::vector<int32_t>{197, 198, 199}));
  request.set_truncate_prompt_tokens(101);
  EXPECT_EQ(BadField(request), "token_ids");
}

TEST(ProtoConversionTest, PromptsBeyondAnyBoundAreRefusedBeforeTheyAreCopied) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Resize(100, 1);
  EXPECT_TRUE(ToEngineRequest(&request, Model()).ok());
  request.mutable_token_ids()->add_ids(1);
  EXPECT_EQ(BadField(request), "token_ids");
  v1::TokenizeRequest tokenize;
  for (int i = 0; i < 4096; ++i) request.mutable_chat()->add_messages()->set_content("x");
  *tokenize.mutable_chat() = request.chat();
  EXPECT_EQ(std::get<engine::ChatPrompt>(*ToEnginePrompt(&tokenize)).messages.size(), 4096u);
  request.mutable_chat()->add_messages();
  EXPECT_EQ(BadField(request), "chat.messages");
  *tokenize.mutable_chat() = request.chat();
  EXPECT_EQ(ToEnginePrompt(&tokenize).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ProtoConversionTest, FreeTokensOfALargeCacheDoNotOverflow) {
  engine::EngineLoad load;
  load.num_pages = load.num_free_pages = 40'000'000;
  v1::GetLoadsResponse response;
  SetLoads(load, &response);
  EXPECT_EQ(response.free_kv_cache_tokens(), int64_t{40'000'000} * kernels::kPageTokens);
}

TEST(ProtoConversionTest, QualityAndFallbackAreAbsentUntilThereIsSomethingToSay) {
  engine::Finish finish;
  v1::GenerateStreamResponse message;
  SetFinish(finish, ReturnOptions(), &message);
  EXPECT_FALSE(message.retrieval().has_quality());
  EXPECT_FALSE(message.retrieval().has_fallback());

  finish.retrieval.dense_reason = engine::DenseReason::kGuardrail;
  finish.retrieval.quality = {3, 0.7, 0.55, 0.9, 0.1, 0.8};
  finish.retrieval.fallback = {1, 17, false, 0.08};
  SetFinish(finish, ReturnOptions(), &message);
  EXPECT_EQ(message.retrieval().dense_reason(), v1::DENSE_REASON_GUARDRAIL);
  const v1::RetrievalQuality& quality = message.retrieval().quality();
  EXPECT_EQ(quality.samples(), 3);
  EXPECT_EQ(quality.recall(), 0.7);
  EXPECT_EQ(quality.iou(), 0.55);
  EXPECT_EQ(quality.attention_mass(), 0.9);
  EXPECT_EQ(quality.min_attention_mass(), 0.8);
  EXPECT_EQ(quality.output_error(), 0.1);
  EXPECT_EQ(message.retrieval().fallback().count(), 1);
  EXPECT_EQ(message.retrieval().fallback().after_tokens(), 17);
  EXPECT_EQ(message.retrieval().fallback().budget_ratio(), 0.08);

  finish.retrieval.fallback = {2, 17, true, 0};
  v1::GenerateResponse unary;
  SetFinish(finish, ReturnOptions(), &unary);
  EXPECT_EQ(unary.retrieval().fallback().count(), 2);
  EXPECT_FALSE(unary.retrieval().fallback().has_budget_ratio());
}

TEST(ProtoConversionTest, AnotherModelIsNotFound) {
  v1::GenerateRequest request = TextRequest();
  request.set_model("other");
  const absl::Status status = ToEngineRequest(&request, Model()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "model: \"other\" is not served here, \"m\" is");
}

TEST(GrpcStatusTest, OnlyAPathBeforeTheColonIsASubject) {
  EXPECT_EQ(SplitSubject("sampling.logit_bias[7]: too large").subject, "sampling.logit_bias[7]");
  EXPECT_EQ(SplitSubject("sampling.logit_bias[7]: too large").description, "too large");
  for (const char* message : {"no colon", "two words: x", ": x", "Capital: x", ""}) {
    EXPECT_EQ(SplitSubject(message).subject, "") << message;
    EXPECT_EQ(SplitSubject(message).description, message);
  }
}

// Whether the reply carries a detail of this type after its trip through gRPC's status.
template <class Detail>
bool HasDetail(const absl::Status& status) {
  google::rpc::Status proto;
  EXPECT_TRUE(proto.ParseFromString(ToGrpcStatus(status).error_details()));
  for (const auto& any : proto.details()) {
    if (any.Is<Detail>()) return true;
  }
  return false;
}

TEST(GrpcStatusTest, OnlyRefusalsThatPassSayWhenToTryAgain) {
  for (const char* message :
       {"queue_requests: full", "queue_tokens: full", "encoding_queue: full", "caller_share: 80"}) {
    EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(absl::ResourceExhaustedError(message))) << message;
  }
  EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(absl::UnavailableError("draining")));
  const auto too_long = absl::ResourceExhaustedError("text: a prompt of 9000 tokens leaves no room in the KV cache");
  EXPECT_TRUE(HasDetail<google::rpc::QuotaFailure>(too_long));
  EXPECT_FALSE(HasDetail<google::rpc::RetryInfo>(too_long));
}

TEST(GrpcStatusTest, LongMessagesAreCutBetweenCharacters) {
  std::string euros;
  while (euros.size() < 5000) euros += "\xe2\x82\xac";
  for (const char* prefix : {"", "a", "ab"}) {
    const grpc::Status status = ToGrpcStatus(absl::InvalidArgumentError("text: " + (prefix + euros)));
    const std::string& message = status.error_message();
    EXPECT_LE(message.size(), 1024u + 3);
    EXPECT_GT(message.size(), 1024u - 3);
    EXPECT_EQ(message.substr(message.size() - 6), "\xe2\x82\xac...") << prefix;
    EXPECT_LT(status.error_details().size(), 2500u);
  }
}

TEST(GrpcStatusTest, CodesKeepTheirNumbersAndNames) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_EQ(ToGrpcStatus(absl::UnauthenticatedError("x")).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ToGrpcStatus(absl::InternalError("x")).error_details(), "");
  EXPECT_EQ(CodeName(grpc::StatusCode::OK), "OK");
  EXPECT_EQ(CodeName(grpc::StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
}

TEST(WireMessageTest, MessagesSurviveTheTrip) {
  v1::GenerateRequest sent = TextRequest();
  v1::GenerateRequest received;
  ASSERT_TRUE(ParseMessage(SerializeMessage(sent), &received).ok());
  EXPECT_EQ(received.text(), "hello");
}

absl::Status ParseBytes(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  v1::GenerateRequest request;
  return ParseMessage(grpc::ByteBuffer(&slice, 1), &request);
}

TEST(WireMessageTest, NamesTheFieldThatIsNotUtf8) {
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_content("fine");
  request.mutable_chat()->add_messages()->set_role("\xed\xa0\x80");  // a surrogate
  EXPECT_EQ(ParseBytes(request.SerializeAsString()).message(), "chat.messages.role: must be UTF-8");
  request = TextRequest();
  request.mutable_stopping()->add_stop("\xc0\xaf");  // overlong
  EXPECT_EQ(ParseBytes(request.SerializeAsString()).message(), "stopping.stop: must be UTF-8");
  request = TextRequest();
  request.set_text("\xf0\x9f\x98\x80 \xe4\xbd\xa0 \xc3\xa9");
  EXPECT_TRUE(ParseBytes(request.SerializeAsString()).ok());
}

TEST(WireMessageTest, RefusesBytesThatAreNoMessage) {
  for (const std::string& bytes : {std::string("\x1a\x7f", 2), std::string("\x07"), std::string(300, '\x2b')}) {
    EXPECT_EQ(ParseBytes(bytes).code(), absl::StatusCode::kInvalidArgument);
  }
}

constexpr char kTooMuch[] =
    "request: must have at most 16384 strings, messages and unknown fields, and 4194304 numbers";

TEST(WireMessageTest, RefusesBytesThatWouldMultiplyInMemory) {
  const auto repeated = [](const std::string& bytes) {
    std::string all;
    for (int i = 0; i < 20'000; ++i) all += bytes;
    return all;
  };
  const auto field = [](char tag, const std::string& bytes) {
    std::string size;
    for (size_t left = bytes.size(); left > 0; left >>= 7) size += static_cast<char>((left & 127) | (left > 127) << 7);
    return tag + size + bytes;
  };
  const std::string two(std::string("\x0a\x00", 2));      // an empty field 1
  const std::string chat = field('\x2a', repeated(two));  // messages
  const std::string stop = field('\x3a', repeated(std::string("\x1a\x00", 2)));
  const std::string unknown = repeated(std::string("\xfa\x7f\x00", 3));  // field 2047
  const std::string no_bool = repeated(std::string("\x7a\x00", 2));      // field 15 with a length
  const std::string group = "\x7b" + repeated(std::string("\x08\x01", 2)) + "\x7c";
  for (const std::string& bytes : {chat, stop, unknown, no_bool, group}) {
    EXPECT_EQ(ParseBytes(bytes).message(), kTooMuch);
  }
}

TEST(WireMessageTest, BoundsTheNumbersOfAMessage) {
  constexpr int kMaxNumbers = 4 << 20;
  v1::GenerateRequest request;
  for (const int32_t id : {1, 100'000}) {  // a byte each, and three
    request.mutable_token_ids()->mutable_ids()->Clear();
    request.mutable_token_ids()->mutable_ids()->Resize(kMaxNumbers, id);
    EXPECT_TRUE(ParseBytes(request.SerializeAsString()).ok());
    request.mutable_token_ids()->add_ids(id);
    EXPECT_EQ(ParseBytes(request.SerializeAsString()).message(), kTooMuch);
  }
  request.Clear();
  request.mutable_stopping()->mutable_stop_token_ids()->Resize(kMaxNumbers / 2, 1);
  const std::string half = request.SerializeAsString();
  EXPECT_TRUE(ParseBytes(half + half).ok());
  EXPECT_EQ(ParseBytes(half + half + half).message(), kTooMuch) << "parts of one list add up";

  std::string unpacked;
  while (unpacked.size() <= 2 * kMaxNumbers) unpacked += std::string("\x08\x01", 2);  // ids, one by one
  std::string size;
  for (size_t left = unpacked.size(); left > 0; left >>= 7) {
    size += static_cast<char>((left & 127) | (left > 127) << 7);
  }
  EXPECT_EQ(ParseBytes("\x22" + size + unpacked).message(), kTooMuch);
}

TEST(WireMessageTest, TakesTheLongestChatAndAnyNumberOfTokens) {
  v1::GenerateRequest request;
  for (int i = 0; i < 4096; ++i) {
    auto* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content("x");
  }
  for (int i = 0; i < 16; ++i) request.mutable_stopping()->add_stop("x");
  for (int i = 0; i < 300; ++i) (*request.mutable_sampling()->mutable_logit_bias())[i] = 1;
  EXPECT_TRUE(ParseBytes(request.SerializeAsString()).ok());
  request.mutable_token_ids()->mutable_ids()->Resize(1 << 20, 1);
  EXPECT_TRUE(ParseBytes(request.SerializeAsString()).ok());
}

}  // namespace
}  // namespace spotlight::server
