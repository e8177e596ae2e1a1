// The requests of a run: the i-th is the same whenever and in whatever order it is asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client::bench {

// Lengths in tokens, both ends included, drawn uniformly.
struct LengthRange {
  int32_t low = 0;
  int32_t high = 0;

  std::string ToString() const;  // "128" or "64:512"
};

// "128" or "64:512", both at least `min`.
absl::StatusOr<LengthRange> ParseLengthRange(const std::string& text, int32_t min);

// A prompt from a file, with as many tokens of output as the file asks for.
struct DatasetPrompt {
  v1::GenerateRequest request;  // its prompt only
  absl::optional<int32_t> output_tokens;
  // An answer that came with the prompt, as in ShareGPT; its length stands for output_tokens.
  std::string reference_answer;
};

struct WorkloadOptions {
  v1::GenerateRequest base;              // what all requests share: sampling, stopping, retrieval, model
  std::vector<DatasetPrompt> dataset;    // in turn; empty: random prompts
  LengthRange input{256, 256};           // of random prompts
  int32_t shared_prefix_tokens = 0;      // of random prompts: the same in all of them, on top of `input`
  bool as_text = false;                  // random prompts of words instead of token ids
  absl::optional<LengthRange> output;    // absent: the dataset's own
  std::vector<int32_t> excluded_tokens;  // never in a random prompt
  int32_t vocab_size = 0;
  double cancel_share = 0;  // of the requests, 0 to 1
  uint64_t seed = 0;
};

struct WorkItem {
  v1::GenerateRequest request;
  int32_t input_tokens = 0;   // 0: not known before the server says so
  int32_t output_tokens = 0;  // max_tokens
  // Cancel once so many tokens have come; 0: do not.
  int32_t cancel_after_tokens = 0;
};

// Thread-compatible.
class Workload {
 public:
  explicit Workload(WorkloadOptions options);

  WorkItem Make(uint64_t index) const;

 private:
  void SetRandomPrompt(int32_t num_tokens, uint64_t random_key, v1::GenerateRequest* request) const;
  int32_t TokenFrom(uint64_t random_bits) const;

  const WorkloadOptions options_;
  std::vector<int32_t> shared_prefix_;
};

}  // namespace spotlight::client::bench
