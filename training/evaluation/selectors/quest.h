// Quest (arXiv 2406.10774): pages of 16 tokens, ranked by an upper bound of their logits.
#pragma once

#include <memory>

#include "training/evaluation/selector.h"

namespace spotlight::training {

// "quest": a page's bound is sum_i max(q_i * min_i, q_i * max_i), min and max of its keys by dimension; each query head
// takes the best pages until it has K tokens, the last page in part.
std::unique_ptr<Selector> MakeQuest();
// "quest-group": one set per KV head, by the group's summed bounds.
std::unique_ptr<Selector> MakeQuestByGroup();

}  // namespace spotlight::training
