// Exact attention of some queries of a sequence: what a hash is trained towards and judged by.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace spotlight::training {

// The first query position that has tokens to choose between under the default budget (kernels/budget.h).
int64_t FirstChoosingPosition();

// Queries of one sequence of T tokens by their position in it; S = position + 1 tokens are visible to each.
struct QuerySites {
  QuerySites(const std::vector<int64_t>& at, int64_t tokens, at::Device device);

  at::Tensor positions;   // [N] int64
  at::Tensor num_select;  // [N] int64, K of kernels/budget.h
  at::Tensor candidates;  // [N, T] bool: tokens that compete, 4 <= j <= position - 64
  at::Tensor visible;     // [N, T] bool: j <= position
  int64_t max_select = 0;
};

// softmax over the visible tokens of q . k / sqrt(D): q [u, G, N, D], k [u, T, D] -> [u, G, N, T], of q's type.
at::Tensor AttentionWeights(const at::Tensor& q, const at::Tensor& k, const QuerySites& sites);

// weights [u, G, N, T] -> [u, N, T]: the group's summed mass of every candidate, 0 elsewhere.
at::Tensor CandidateMass(const at::Tensor& weights, const QuerySites& sites);

// The num_select candidates of the highest score (fp32; no NaN), of equal scores the lower index. score [..., N, T].
struct TopTokens {
  at::Tensor index;  // [..., N, max_select] int64, best first; entries from num_select on are to be ignored
  at::Tensor valid;  // [N, max_select] bool
};
TopTokens FindTopTokens(const at::Tensor& score, const QuerySites& sites);

// The same as a mask [..., N, T] bool.
at::Tensor TopTokenMask(const at::Tensor& score, const QuerySites& sites);

}  // namespace spotlight::training
