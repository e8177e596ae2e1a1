// One step's work as packed integers: what the model runner copies to its device. No pointers into sequences but the
// sampling parameters, which outlive the step.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/optional.h"
#include "engine/request.h"

namespace spotlight::engine {

// A row that yields a token this step: decode rows, and prefill rows whose prompt ends in this step.
struct SampleRow {
  int32_t token_index = 0;                   // its last token's place in the packed tokens
  const SamplingParams* sampling = nullptr;  // every optional resolved
  uint64_t seed = 0;                         // with output_index, all that randomness depends on
  int32_t output_index = 0;                  // how many tokens the sequence has generated so far
  uint64_t sequence_id = 0;                  // the same in every step of the sequence, and no other's
  int32_t num_logprobs = -1;                 // -1: none
  // For penalties: the prompt's distinct ids, and the generated ones in order. Null where no penalty is set.
  const std::vector<int32_t>* prompt_token_ids = nullptr;
  const std::vector<int32_t>* output_token_ids = nullptr;
  // The latest generated token is that of this sample of the step before, and not yet in output_token_ids. -1: it is.
  int32_t fed_sample = -1;
  // Ids that may not be sampled yet (min_tokens). Null: none.
  const std::vector<int32_t>* banned_token_ids = nullptr;
};

// A prompt token whose log-probability is wanted.
struct ScoredToken {
  int32_t token_index = 0;  // in the packed tokens: of the token before it
  int32_t token_id = 0;
  int32_t num_top = 0;  // likeliest tokens wanted beside it
};

// Rows that retrieve with the same sink and recent tokens, from the end of the run before to `end`.
struct SparseRun {
  int32_t end = 0;
  int32_t sink_tokens = 0, recent_tokens = 0;
};

// A row that retrieves, and the hashed layer in which it is judged against exact attention.
struct QualityTarget {
  int32_t row = 0;
  int32_t layer = 0;
  uint64_t sequence_id = 0;   // the row's
  int32_t num_fallbacks = 0;  // of its request, so far
};

// Rows are ordered: decode rows that attend to everything, decode rows that retrieve, prefill chunks. A decode row has
// one token; tokens are packed in row order, so token r of r < num_decode_rows is row r's.
struct Batch {
  int32_t num_dense_rows = 0;   // rows [0, num_dense_rows): dense decode
  int32_t num_decode_rows = 0;  // rows [num_dense_rows, num_decode_rows): sparse decode
  int32_t num_rows = 0;         // B; rows [num_decode_rows, num_rows): prefill chunks

  std::vector<int32_t> token_ids;    // [T] an id, or ~i: what sample i of the step before yields
  std::vector<int32_t> positions;    // [T]
  std::vector<int64_t> slots;        // [T] page * kPageTokens + slot
  std::vector<int32_t> query_begin;  // [B + 1] row r's tokens are [query_begin[r], query_begin[r + 1])
  std::vector<int32_t> context_len;  // [B] tokens in the cache after this step
  std::vector<int32_t> num_select;   // [B] K of a sparse row, else 0
  std::vector<int32_t> page_table;   // [B, max_pages]; tail 0
  int32_t max_pages = 0;

  // The sparse rows; empty: one run, with the sink and recent tokens that the attention was made with, the server's.
  std::vector<SparseRun> sparse_runs;
  std::vector<SampleRow> samples;
  std::vector<ScoredToken> scored;  // in the order of the packed tokens
  // Measure the stages of retrieval in this step (StepResult::retrieval).
  bool time_retrieval = false;
  // Measure this (StepResult::quality, of this step or the next); no row's tokens change by it. Most steps: none.
  absl::optional<QualityTarget> quality;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
};

}  // namespace spotlight::engine
