#include "training/ranking_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include "kernels/budget.h"

namespace spotlight::training {
namespace {

constexpr int64_t kPairsPerQuery = 512;
constexpr double kMinMass = 1e-12;   // of all candidates of a query together; below it the query teaches nothing
constexpr double kExcluded = -1e30;  // a score that no softmax sees, finite so that 0 times its logarithm is 0

RankingTarget PairTarget(const at::Tensor& mass, const QuerySites& sites, const PairDraws& pairs) {
  const int64_t units = mass.size(0);
  const at::Tensor ranked = FindTopTokens(mass, sites).index;
  const auto each_unit = [&](const at::Tensor& x) { return x.unsqueeze(0).expand({units, -1, -1}); };
  RankingTarget target;
  target.better = ranked.gather(-1, each_unit(pairs.rank));
  target.worse = each_unit(pairs.other).contiguous();
  const at::Tensor last = ranked.gather(-1, each_unit((sites.num_select - 1).unsqueeze(1)));
  target.pair_share = (mass.gather(-1, target.worse) < mass.gather(-1, last)).to(mass.scalar_type());
  target.pair_share.div_(target.pair_share.sum({1, 2}, /*keepdim=*/true).clamp_min_(1));
  return target;
}

RankingLoss PairLoss(const at::Tensor& score, const RankingTarget& target) {
  const at::Tensor lead = score.gather(-1, target.better) - score.gather(-1, target.worse);
  RankingLoss loss;
  loss.value = at::softplus(-lead).mul_(target.pair_share).sum({1, 2});
  const at::Tensor push = at::sigmoid(-lead).mul_(target.pair_share);
  loss.gradient = at::zeros_like(score).scatter_add_(-1, target.worse, push).scatter_add_(-1, target.better, -push);
  return loss;
}

}  // namespace

PairDraws::PairDraws(const std::vector<int64_t>& positions, StepRandom* random, at::Device device) {
  const kernels::Budget budget;
  std::vector<int64_t> ranks, others;
  for (const int64_t position : positions) {
    const auto context = static_cast<int32_t>(position + 1);
    const int64_t count = kernels::NumSelected(budget, context);
    const int64_t end = budget.sink_tokens + kernels::NumCandidates(budget, context);
    for (int64_t i = 0; i < kPairsPerQuery; ++i) {
      ranks.push_back(random->Within(0, count));
      others.push_back(random->Within(budget.sink_tokens, end));
    }
  }
  rank = at::tensor(ranks, at::kLong).view({-1, kPairsPerQuery}).to(device);
  other = at::tensor(others, at::kLong).view({-1, kPairsPerQuery}).to(device);
}

RankingTarget TargetOf(Loss loss, at::Tensor mass, const QuerySites& sites, const PairDraws& pairs) {
  if (loss == Loss::kBradleyTerry) return PairTarget(mass, sites, pairs);
  if (loss == Loss::kSoftTopK) {
    mass = TopTokenMask(mass, sites).to(mass.scalar_type()).div_(sites.num_select.unsqueeze(1));
  }
  RankingTarget target;
  target.weights = mass.div_(mass.sum({-1}, /*keepdim=*/true).clamp_min_(kMinMass));
  return target;
}

RankingLoss JudgeScores(Loss loss, at::Tensor score, const QuerySites& sites, const RankingTarget& target) {
  if (loss == Loss::kBradleyTerry) return PairLoss(score, target);
  const double queries = static_cast<double>(score.size(1));
  at::Tensor share = at::log_softmax(score.masked_fill_(sites.candidates.logical_not(), kExcluded), -1);
  RankingLoss result;
  result.value = (share * target.weights).sum({1, 2}).div_(-queries);
  // (softmax(score) * sum of the weights - weights) / N
  share.exp_().mul_(target.weights.sum({-1}, /*keepdim=*/true).div_(queries));
  result.gradient = share.sub_(target.weights, 1 / queries);
  return result;
}

}  // namespace spotlight::training
