// Protobuf messages to engine types and back. What is checked here is what the engine's types cannot express; all other
// limits are the engine's, whose messages likewise begin with the field's path.
#pragma once

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::server {

// INVALID_ARGUMENT: no prompt or one beyond any bound, an unknown enum value, a map key that is no token id; NOT_FOUND:
// another model than this one. Gives the request an id where it has none. Takes the prompt out of `request`.
absl::StatusOr<engine::GenerateRequest> ToEngineRequest(v1::GenerateRequest* request, const engine::ModelInfo& model);

// INVALID_ARGUMENT: more ids than the model's context holds. Asked before they are copied.
absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, int32_t max_context_tokens);

// INVALID_ARGUMENT: no prompt, too many messages.
absl::StatusOr<engine::Prompt> ToEnginePrompt(v1::TokenizeRequest* request);

// What a request wants to have back beside the text.
struct ReturnOptions {
  bool token_ids = false;
  bool retrieval = true;
};
ReturnOptions ToReturnOptions(const v1::GenerateRequest& request);

// Adds a delta to a message that may already hold others, of a stream: of the same sample.
void AppendDelta(const engine::Delta& delta, const ReturnOptions& options, v1::GenerateStreamResponse* message);
void AppendDelta(const engine::Delta& delta, const ReturnOptions& options, v1::GenerateResponse* message);

// finish_reason and all that follows it but the usage: a sample's end.
void SetSampleFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateStreamResponse* message);
void SetSampleFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateResponse* message);
// The usage as well: the request's end.
void SetFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateStreamResponse* message);
void SetFinish(const engine::Finish& finish, const ReturnOptions& options, v1::GenerateResponse* message);

void SetModelInfo(const engine::ModelInfo& model, const engine::RetrievalOptions& retrieval,
                  v1::GetModelInfoResponse* message);
void SetLoads(const engine::EngineLoad& load, v1::GetLoadsResponse* message);

}  // namespace spotlight::server
