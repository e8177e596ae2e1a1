// Input: the bytes of a call, read as each request that carries a prompt, up to the token ids that the engine would
// see.
#include <cmath>

#include "absl/status/statusor.h"
#include "engine/prompt_encoder.h"
#include "engine/validate_request.h"
#include "proto/spotlight/v1/generation.pb.h"
#include "server/grpc_status.h"
#include "server/proto_conversion.h"
#include "server/utf8.h"
#include "server/wire_message.h"
#include "tests/fuzz/target.h"

namespace spotlight::fuzz {
namespace {

constexpr char kModelFolder[] = "tests/testdata/tiny-llama";
constexpr int64_t kCacheTokens = 4096;

struct ServedModel {
  engine::ModelInfo info;
  std::unique_ptr<engine::Tokenizer> tokenizer;
  std::unique_ptr<engine::ChatTemplate> chat_template;
  std::unique_ptr<engine::PromptEncoder> encoder;
};

ServedModel* LoadServedModel() {
  auto* const model = new ServedModel;
  model->info.name = "tiny-llama";
  model->info.vocab_size = 512;
  model->info.max_context_tokens = 2048;
  auto tokenizer = engine::Tokenizer::Load(std::string(kModelFolder) + "/tokenizer.json");
  auto chat_template = engine::ChatTemplate::Load(kModelFolder);
  Require(tokenizer.ok() && chat_template.ok(), "the tiny model's tokenizer and chat template load");
  model->tokenizer = *std::move(tokenizer);
  model->chat_template = *std::move(chat_template);
  model->encoder = std::make_unique<engine::PromptEncoder>(model->tokenizer.get(), model->chat_template.get(),
                                                           model->info.max_context_tokens);
  return model;
}

// What a client hears of a refusal.
void RequireAnswerable(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kNotFound ||
              status.code() == absl::StatusCode::kFailedPrecondition,
          "a bad request is called one");
  const grpc::Status answer = server::ToGrpcStatus(status);
  Require(!answer.error_message().empty() && answer.error_message().size() < 2048, "a refusal says why, in short");
  Require(server::IsUtf8(answer.error_message()), "a refusal is text");
}

bool Encodes(const ServedModel& model, const engine::Prompt& prompt) {
  const auto ids = model.encoder->Encode(prompt);
  const absl::Status status =
      ids.ok() ? engine::ValidateEncodedPrompt(prompt, *ids, model.info, kCacheTokens) : ids.status();
  if (!status.ok()) RequireAnswerable(status);
  return status.ok();
}

absl::StatusOr<engine::GenerateRequest> ReadGenerate(const grpc::ByteBuffer& bytes, const engine::ModelInfo& model) {
  v1::GenerateRequest message;
  absl::Status status = server::ParseMessage(bytes, &message);
  if (!status.ok()) return status;
  server::ToReturnOptions(message);
  auto request = server::ToEngineRequest(&message, model);
  if (!request.ok()) return request;
  status = engine::ValidateRequest(*request, model);
  if (!status.ok()) return status;
  return request;
}

absl::StatusOr<engine::Prompt> ReadTokenize(const grpc::ByteBuffer& bytes, const engine::ModelInfo& model) {
  v1::TokenizeRequest message;
  absl::Status status = server::ParseMessage(bytes, &message);
  if (!status.ok()) return status;
  auto prompt = server::ToEnginePrompt(&message);
  if (!prompt.ok()) return prompt;
  status = engine::ValidatePrompt(*prompt, model);
  if (!status.ok()) return status;
  return prompt;
}

absl::Status Detokenize(const grpc::ByteBuffer& bytes, const ServedModel& model) {
  v1::DetokenizeRequest message;
  absl::Status status = server::ParseMessage(bytes, &message);
  if (status.ok()) status = server::CheckTokenIds(message.token_ids(), model.info.max_context_tokens);
  if (!status.ok()) return status;
  const std::vector<int32_t> ids(message.token_ids().begin(), message.token_ids().end());
  const auto text = model.tokenizer->Decode(ids, /*skip_special_tokens=*/false);
  Require(text.ok() && server::IsUtf8(*text), "any ids decode to text");
  return absl::OkStatus();
}

// What the engine relies on and does not look at again.
void RequireInBounds(const engine::GenerateRequest& request, const engine::ModelInfo& model) {
  const engine::SamplingParams sampling = engine::ResolveSampling(request.sampling, engine::SamplingParams());
  Require(std::isfinite(*sampling.temperature) && *sampling.temperature >= 0, "temperature is in its range");
  Require(*sampling.top_p > 0 && *sampling.top_p <= 1, "top_p is in its range");
  Require(sampling.n >= 1 && sampling.n <= engine::kMaxSamples, "n is in its range");
  for (const auto& [id, bias] : sampling.logit_bias) {
    Require(id >= 0 && id < model.vocab_size && std::isfinite(bias), "biases are finite, of tokens of the vocabulary");
  }
  for (const int32_t id : request.stopping.stop_token_ids) {
    Require(id >= 0 && id < model.vocab_size, "stop tokens are in the vocabulary");
  }
  Require(!request.request_id.empty() && request.request_id.size() <= 256, "a request has an id");
}

}  // namespace

bool Accepts(absl::string_view input) {
  static const ServedModel& model = *LoadServedModel();
  const grpc::Slice slice(input.data(), input.size());
  const grpc::ByteBuffer bytes(&slice, 1);

  const auto prompt = ReadTokenize(bytes, model.info);
  if (prompt.ok()) {
    Encodes(model, *prompt);
  } else {
    RequireAnswerable(prompt.status());
  }
  if (const absl::Status status = Detokenize(bytes, model); !status.ok()) RequireAnswerable(status);

  const auto request = ReadGenerate(bytes, model.info);
  if (!request.ok()) {
    RequireAnswerable(request.status());
    return false;
  }
  RequireInBounds(*request, model.info);
  return Encodes(model, request->prompt);
}

}  // namespace spotlight::fuzz
