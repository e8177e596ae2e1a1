// Logits to tokens and log-probabilities, on a GPU: what engine/sampler.h does on the host, a row of logits per token.
//
//   logits   [R, V]  dtype            finite or -infinity; see `token_id` for other values
//   rows     [R]     SampleRowParams  how each row is sampled
//   counts   [slots, V]       uint32  how often the slot's sequence has generated each token, | kInPrompt where its
//                                     prompt has it; a sampled token is counted here. Null: no row has penalties
//   entries  [slots, kMaxSampleEntries]  SampleEntry  biases, then bans. Null: no row has any
//   out      [any]  SampleOutput      row r's goes to out[rows[r].out]
//
// In this order, as engine/sampler.h says: penalties, biases, bans, temperature, min_p, top_k, top_p, the draw.
// The sets that the filters keep are exact: thresholds are found by histograms of the logits' bits, ties go to the
// lowest ids. Weights exp((logit - max) * scale) are summed as integers of 2^-44, so sums have no order: a row's result
// is the same bits in every run, whatever the rows beside it. A token lighter than 2^-44 of the heaviest is never
// drawn. Against engine/sampler.h tokens are equal but where the draw, or the weight that top_p asks for, is within
// 1e-5 (of the total) of a boundary between two tokens.
//
// A cluster of 8 blocks owns a row (sm_90), an eighth of it in each block's shared memory: logits are read once. Where
// there are no clusters one block owns it, and a row that does not fit lies in the workspace.
// Capturable in a CUDA graph; no host synchronisation.
// Cost reads R * V elements of logits, and as many counts where there are penalties.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kMaxSampleEntries = 512;
inline constexpr uint32_t kInPrompt = 1u << 31;

// Greedy, without anything else, by default.
struct SampleRowParams {
  double draw = 0;           // uniform in [0, 1)
  float scale = 0;           // 1 / temperature; 0: greedy
  float top_p = 1;           // 1: off
  float min_p_distance = 1;  // <= 0: ln(min_p) / scale, the lowest that a logit may be beside the highest; else off
  int32_t top_k = 0;         // 0: off
  float repetition = 1, presence = 0, frequency = 0;
  int32_t has_penalty = 0;
  int32_t slot = -1;  // of counts and entries; -1: no penalties, biases or bans
  int32_t num_biases = 0, num_bans = 0;
  int32_t num_top = -1;       // log-probabilities of the likeliest tokens beside the token's own; -1: none at all
  int32_t scored_token = -1;  // >= 0: nothing is sampled, this token's log-probabilities are wanted
  int32_t out = -1;           // -1: the row is padding
};
static_assert(sizeof(SampleRowParams) == 64, "rows are copied to the device as they are");

// Added to a token's logit; a ban's bias is not read. A token is at most once among a slot's biases.
struct SampleEntry {
  int32_t token_id = 0;
  float bias = 0;
};

struct SampleOutput {
  // -1: the logits hold NaN or +infinity, or, after biases and bans, nothing finite.
  int32_t token_id = 0;
  // With num_top >= 0: of the raw logits, natural.
  float logprob = 0;
  // The likeliest ones, best first; -1 after the last where the vocabulary has fewer.
  int32_t top_ids[kMaxTopLogprobs] = {};
  float top_logprobs[kMaxTopLogprobs] = {};
};

struct SampleParams {
  Execution execution;  // CUDA
  DType dtype = DType::kF32;
  int32_t num_rows = 0;    // R
  int32_t vocab_size = 0;  // V

  const void* logits = nullptr;
  const SampleRowParams* rows = nullptr;
  uint32_t* counts = nullptr;
  const SampleEntry* entries = nullptr;
  SampleOutput* out = nullptr;
  void* workspace = nullptr;  // null where SampleWorkspaceBytes is 0
  size_t workspace_bytes = 0;
};

// Of the current device.
size_t SampleWorkspaceBytes(int32_t max_rows, int32_t vocab_size);

// INVALID_ARGUMENT names the field at fault, before any work. Enqueued on the stream.
absl::Status Sample(const SampleParams& params);

// A sequence's tokens so far, in place of what the slot held: counts[id] = how often id is among `generated`, |
// kInPrompt for the ids in `prompt`.
struct CountTokensParams {
  Execution execution;  // CUDA
  int32_t vocab_size = 0;
  int32_t num_prompt = 0, num_generated = 0;
  const int32_t* token_ids = nullptr;  // [num_prompt + num_generated], each in [0, V)
  uint32_t* counts = nullptr;          // [V]
};
absl::Status CountTokens(const CountTokensParams& params);

// token_ids[t] = sampled[~token_ids[t]].token_id where token_ids[t] < 0; 0 in place of no token.
struct FeedTokensParams {
  Execution execution;  // CUDA
  int32_t num_tokens = 0;
  int32_t* token_ids = nullptr;
  const SampleOutput* sampled = nullptr;
};
absl::Status FeedTokens(const FeedTokensParams& params);

}  // namespace spotlight::kernels
