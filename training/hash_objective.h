// Loss and gradient of some units on one sequence: encoders by autograd, scores and ranking by hand, because a score
// matrix [units, queries, tokens] is too large to keep what autograd would. Any float type. Thread-compatible.
#pragma once

#include <ATen/core/Tensor.h>

#include "training/attention_targets.h"
#include "training/hash_encoders.h"
#include "training/hash_layout.h"
#include "training/ranking_loss.h"
#include "training/recipe.h"

namespace spotlight::training {

// khat = (k - mean) * scale, and the query encoder's inputs likewise. [U, 1, in] and [U, 1, 1 or in]; one scale per
// head.
struct Centring {
  at::Tensor key_mean, key_scale, query_mean, query_scale;

  Centring Of(int64_t begin, int64_t count) const;  // these units'
  at::Tensor Keys(const at::Tensor& k) const;
  at::Tensor Queries(const at::Tensor& inputs) const;
};

// u units: their parameters [u, P], and the heads' queries and keys as attention sees them.
struct UnitBatch {
  at::Tensor parameters;
  at::Tensor rotations;  // [D, N]
  Centring centring;
  at::Tensor q;  // [u, G, N, D]
  at::Tensor k;  // [u, T, D]
};

// Writes d loss / d parameters to `gradient` [u, P] and gives the loss [u], the prefix's own included. The layout must
// be the recipe's.
at::Tensor LossAndGradient(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units,
                           const QuerySites& sites, const RankingTarget& target, at::Tensor* gradient);

// Scores [u, N, T] before the logit scale as training sees them, and as they are served (integers).
at::Tensor TrainingScores(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units);
at::Tensor ServedScores(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units);
// The same by a hash file's encoders, of queries and keys that are not centred: q [u, G, N, D], k [u, T, D].
at::Tensor ServedScores(const Recipe& recipe, const HashLayout& layout, const Encoder& query, const Encoder& key,
                        const at::Tensor& q, const at::Tensor& k);

}  // namespace spotlight::training
