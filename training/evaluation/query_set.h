// Queries drawn from a captured layer, beside tail_queries.h, which makes the sets.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/budget.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// `count` distinct positions of the second half [T / 2, T), ascending, drawn from the seed; all where there are fewer.
std::vector<int64_t> DrawQueryPositions(int64_t num_tokens, int32_t count, uint64_t seed);

// The queries at `positions` (ascending, within [0, T)) of a whole sequence's attention input.
QuerySet QueriesAt(const AttentionInput& input, absl::Span<const int64_t> positions, const kernels::Budget& budget);

// Gives the same queries another ratio of the budget they were made with: num_select. Which queries are dense and which
// tokens compete does not depend on the ratio.
void SetBudget(const kernels::Budget& budget, QuerySet* queries);

// Queries, at least 1, whose set and the work of selectors and measures on it take about `bytes`.
int64_t NumQueriesWithin(int64_t bytes, int64_t num_q_heads, int64_t num_tokens);

// AttendSelected not rounded to the model's number type: [Hkv, G, N, D] float.
at::Tensor ExactlyAttendSelected(QuerySet queries, const Selection& selection);

}  // namespace spotlight::training
