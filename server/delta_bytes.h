// What a piece of an answer takes in memory, as a message or a part of one: the measure of what may wait for a client.
// The few figures at a sample's end are not counted.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/response_sink.h"

namespace spotlight::server {

size_t LogprobBytes(const std::vector<engine::TokenLogprob>& logprobs);
size_t EchoBytes(const engine::Delta& delta);   // the prompt's text and ids
size_t DeltaBytes(const engine::Delta& delta);  // all of it

// Takes the prompt's log-probabilities out of `delta`, in order and in parts of at most `max_bytes`, but of one at
// least.
std::vector<engine::Delta> TakePromptLogprobs(engine::Delta* delta, size_t max_bytes);

}  // namespace spotlight::server
