// Queries of one layer together with their exact attention: what selectors are given and judged by.
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

// The queries at `positions` (ascending, within [0, T)) among input's keys; fp32 arithmetic. A query to which
// kernels/budget.h gives K = 0 attends to everything: no candidates, `always` holds all that it sees.
QuerySet MakeQuerySet(const AttentionInput& input, absl::Span<const int64_t> positions, const kernels::Budget& budget);

// Gives the same queries another budget: num_select, candidates and always.
void SetBudget(const kernels::Budget& budget, QuerySet* queries);

// Queries, at least 1, whose set and the work of selectors and measures on it take about `bytes`.
int64_t NumQueriesWithin(int64_t bytes, int64_t num_q_heads, int64_t num_tokens);

// The heads' outputs [Hkv, G, N, D] float of attention to what was selected and to `always`.
at::Tensor AttendToSelected(const QuerySet& queries, const Selection& selection);

}  // namespace spotlight::training
