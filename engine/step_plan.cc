#include "engine/step_plan.h"

#include <algorithm>

namespace spotlight::engine {

void StepPlan::Clear() {
  rows.clear();
  num_dense_rows = num_decode_rows = num_preempted = 0;
}

void SplitByRetrieval(const RetrievalPolicy& policy, StepPlan* plan) {
  const auto begin = plan->rows.begin();
  const auto end = begin + plan->num_decode_rows;
  for (auto row = begin; row != end; ++row) {
    row->retrieval =
        policy.Decide(row->sequence->retrieval, row->sequence->quality.fallback, row->begin + row->num_tokens);
  }
  const auto is_dense = [](const PlanRow& row) { return row.retrieval.num_select == 0; };
  plan->num_dense_rows = static_cast<int32_t>(std::stable_partition(begin, end, is_dense) - begin);
}

}  // namespace spotlight::engine
