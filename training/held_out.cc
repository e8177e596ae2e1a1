#include "training/held_out.h"

#include <ATen/TensorOperators.h>

namespace spotlight::training {

RetrievalFigures JudgeRetrieval(const at::Tensor& weights, const at::Tensor& score, const QuerySites& sites) {
  const at::Tensor selected = TopTokenMask(score, sites);
  const at::Tensor oracle = TopTokenMask(CandidateMass(weights, sites), sites).unsqueeze(1);
  const at::Tensor own = TopTokenMask(weights, sites);
  const at::Tensor num_select = sites.num_select.to(at::kDouble);
  const auto hits = [&](const at::Tensor& wanted) { return selected.logical_and(wanted).sum(-1).to(at::kDouble); };
  const at::Tensor own_hits = hits(own);

  const at::Tensor of_candidates = weights.mul(sites.candidates);
  const at::Tensor all = of_candidates.sum({1, 3}, /*keepdim=*/false, at::kDouble);
  const at::Tensor caught = of_candidates.mul(selected).sum({1, 3}, /*keepdim=*/false, at::kDouble);
  RetrievalFigures figures;
  figures.recall = (hits(oracle) / num_select).mean({1, 2});
  figures.iou = (own_hits / (num_select * 2 - own_hits)).mean({1, 2});
  // Candidates of no mass at all: nothing was missed.
  figures.candidate_mass = (caught / all).nan_to_num_(1.0).mean(-1);
  return figures;
}

}  // namespace spotlight::training
