#include "engine/step_plan.h"

#include <algorithm>
#include <tuple>

namespace spotlight::engine {

void StepPlan::Clear() {
  rows.clear();
  num_dense_rows = num_decode_rows = num_preempted = 0;
  num_prefix_query_tokens = num_prefix_hit_tokens = 0;
}

void SplitByRetrieval(const RetrievalPolicy& policy, StepPlan* plan) {
  const auto begin = plan->rows.begin();
  const auto end = begin + plan->num_decode_rows;
  for (auto row = begin; row != end; ++row) {
    row->retrieval =
        policy.Decide(row->sequence->retrieval, row->sequence->quality.fallback, row->begin + row->num_tokens);
  }
  const auto is_dense = [](const PlanRow& row) { return row.retrieval.num_select == 0; };
  const auto first_sparse = std::stable_partition(begin, end, is_dense);
  plan->num_dense_rows = static_cast<int32_t>(first_sparse - begin);
  const auto ends = [](const PlanRow& row) { return std::tie(row.retrieval.sink_tokens, row.retrieval.recent_tokens); };
  std::stable_sort(first_sparse, end, [&](const PlanRow& a, const PlanRow& b) { return ends(a) < ends(b); });
}

}  // namespace spotlight::engine
