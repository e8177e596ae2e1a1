#include "server/delta_bytes.h"

#include <utility>

#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::server {

namespace {

size_t LogprobBytes(const engine::TokenLogprob& logprob) {
  constexpr size_t kLogprobBytes = sizeof(v1::TokenLogprob) + sizeof(void*);
  constexpr size_t kTopBytes = sizeof(v1::TopLogprob) + sizeof(void*);
  return kLogprobBytes + kTopBytes * logprob.top.size();
}

}  // namespace

size_t LogprobBytes(const std::vector<engine::TokenLogprob>& logprobs) {
  size_t num_bytes = 0;
  for (const engine::TokenLogprob& logprob : logprobs) num_bytes += LogprobBytes(logprob);
  return num_bytes;
}

size_t EchoBytes(const engine::Delta& delta) {
  return delta.prompt_text.size() + sizeof(int32_t) * delta.prompt_token_ids.size();
}

size_t DeltaBytes(const engine::Delta& delta) {
  return delta.text.size() + sizeof(int32_t) * delta.token_ids.size() + LogprobBytes(delta.logprobs) +
         EchoBytes(delta) + LogprobBytes(delta.prompt_logprobs);
}

std::vector<engine::Delta> TakePromptLogprobs(engine::Delta* delta, size_t max_bytes) {
  std::vector<engine::Delta> parts;
  size_t num_bytes = 0;  // of the last part
  for (engine::TokenLogprob& logprob : delta->prompt_logprobs) {
    const size_t its_bytes = LogprobBytes(logprob);
    if (parts.empty() || num_bytes + its_bytes > max_bytes) {
      parts.emplace_back().index = delta->index;
      num_bytes = 0;
    }
    num_bytes += its_bytes;
    parts.back().prompt_logprobs.push_back(std::move(logprob));
  }
  delta->prompt_logprobs.clear();
  return parts;
}

}  // namespace spotlight::server
