// All that selectors and measures are told about some queries of one layer, computed exactly.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/budget.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// Queries q [Hq, N, D] at `positions` [N] (int64, ascending, any device) against k and v [Hkv, T, D], T > every
// position. fp32 arithmetic. A query that the budget leaves dense (kernels/budget.h: K = 0) has no candidates, and
// `always` holds every token it sees.
QuerySet MakeQuerySet(int32_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& positions, const kernels::Budget& budget);

// Softmax attention of the queries to what was selected and what is always attended to: [Hq, N, D] in q's type,
// computed in fp32.
at::Tensor AttendSelected(const QuerySet& queries, const Selection& selection);

// Bytes that MakeQuerySet, AttendSelected and a selector use together for one query, about.
int64_t QueryBytes(int64_t num_q_heads, int64_t num_kv_heads, int64_t tokens);

}  // namespace spotlight::training
