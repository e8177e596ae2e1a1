// What a hash finds of the tokens that matter, on sequences it was not trained on, as it is served.
#pragma once

#include <ATen/core/Tensor.h>

#include "training/attention_targets.h"

namespace spotlight::training {

// Each [h]: of h KV heads, mean over the queries (and, for iou, the query heads).
struct RetrievalFigures {
  at::Tensor recall, candidate_mass, iou;
};

// weights [h, G, N, T]: exact attention. score [h, S, N, T]: the hash's, with S = 1 the group's, with S = G each query
// head's own. Definitions as in kernels/retrieval_quality.h; iou is against each query head's own top tokens.
RetrievalFigures JudgeRetrieval(const at::Tensor& weights, const at::Tensor& score, const QuerySites& sites);

}  // namespace spotlight::training
