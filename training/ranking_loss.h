// How far scores are from the ranking that exact attention gives, and which way they should move.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "training/attention_targets.h"
#include "training/recipe.h"
#include "training/step_random.h"

namespace spotlight::training {

// Pairs that Loss::kBradleyTerry compares, R a query, the same for every unit.
struct PairDraws {
  PairDraws() = default;
  PairDraws(const std::vector<int64_t>& positions, StepRandom* random, at::Device device);

  at::Tensor rank;   // [N, R] int64: of a top token, in [0, K)
  at::Tensor other;  // [N, R] int64: a candidate's index
};

// What u units' scores of N queries and T tokens are judged against.
struct RankingTarget {
  at::Tensor weights;                    // [u, N, T]: kCrossEntropy and kSoftTopK; sums to 1 over the candidates (or 0)
  at::Tensor better, worse, pair_share;  // [u, N, R]: kBradleyTerry; shares of the pairs that count sum to 1
};

// mass [u, N, T]: the group's attention mass on candidates, 0 elsewhere. It may be overwritten.
RankingTarget TargetOf(Loss loss, at::Tensor mass, const QuerySites& sites, const PairDraws& pairs);

struct RankingLoss {
  at::Tensor value;     // [u], mean over queries (pairs)
  at::Tensor gradient;  // [u, N, T], of value with respect to the scores; 0 outside the candidates
};

// score [u, N, T]; it may be overwritten.
RankingLoss JudgeScores(Loss loss, at::Tensor score, const QuerySites& sites, const RankingTarget& target);

}  // namespace spotlight::training
