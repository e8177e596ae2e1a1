// What one step computes: rows of sequences and token ranges, in the order of Batch's rows.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/response_sink.h"
#include "engine/retrieval_policy.h"
#include "engine/sequence.h"

namespace spotlight::engine {

// Tokens [begin, begin + num_tokens) of a sequence that owns pages for them.
struct PlanRow {
  Sequence* sequence = nullptr;
  int32_t begin = 0;
  int32_t num_tokens = 0;
  bool samples = false;         // its last token is the sequence's last: the row yields the next one
  RetrievalDecision retrieval;  // decode rows
};

struct StepPlan {
  std::vector<PlanRow> rows;   // decode rows, then prefill chunks
  int32_t num_dense_rows = 0;  // decode rows [0, num_dense_rows) attend to everything, once SplitByRetrieval has run
  int32_t num_decode_rows = 0;
  int32_t num_preempted = 0;  // sequences that lost their pages to this step
  // Tokens of sequences that start (or start again) in this step and may use the prefix cache, and those it had.
  int32_t num_prefix_query_tokens = 0, num_prefix_hit_tokens = 0;

  void Clear();
};

// Decides for each decode row whether it retrieves, puts the dense ones first, and those that retrieve with the same
// sink and recent tokens together; the order is otherwise kept.
void SplitByRetrieval(const RetrievalPolicy& policy, StepPlan* plan);

}  // namespace spotlight::engine
