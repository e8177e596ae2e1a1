#include "server/delta_bytes.h"

#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::server {

size_t LogprobBytes(const std::vector<engine::TokenLogprob>& logprobs) {
  constexpr size_t kLogprobBytes = sizeof(v1::TokenLogprob) + sizeof(void*);
  constexpr size_t kTopBytes = sizeof(v1::TopLogprob) + sizeof(void*);
  size_t num_bytes = 0;
  for (const engine::TokenLogprob& logprob : logprobs) num_bytes += kLogprobBytes + kTopBytes * logprob.top.size();
  return num_bytes;
}

size_t EchoBytes(const engine::Delta& delta) {
  return delta.prompt_text.size() + sizeof(int32_t) * delta.prompt_token_ids.size();
}

size_t DeltaBytes(const engine::Delta& delta) {
  return delta.text.size() + sizeof(int32_t) * delta.token_ids.size() + LogprobBytes(delta.logprobs) +
         EchoBytes(delta) + LogprobBytes(delta.prompt_logprobs);
}

}  // namespace spotlight::server
