// MagicPIG (arXiv 2410.16179): importance sampling of tokens by locality-sensitive hashing.
#pragma once

#include <cstdint>
#include <memory>

#include "training/evaluation/selector.h"

namespace spotlight::training {

struct MagicPigOptions {
  // Hyperplanes of a table. With 10 and the paper's 150 tables about 1% of unrelated tokens collide twice; budgets
  // above `wide_budget` of the context need tables that more tokens share.
  int32_t bits = 10, wide_bits = 8;
  double wide_budget = 0.03;
  int32_t max_tables = 300;
  uint64_t seed = 0;
};

// "magicpig": SimHash tables over keys around their centre; a token that shares the query's bucket in at least two
// tables is sampled, which happens with probability u = 1 - (1 - p)^L - L p (1 - p)^(L - 1), p = (1 - angle / pi)^bits,
// and its logit is corrected by -log u. Each query head uses as many tables L as make its mean sample over the set's
// queries as large as the budget, so the number of tokens differs from query to query as in the original.
std::unique_ptr<Selector> MakeMagicPig(const MagicPigOptions& options);

}  // namespace spotlight::training
