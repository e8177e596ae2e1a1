#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/numeric.h"

namespace spotlight::kernels::reference {

int64_t KeyElement(const int32_t* page_table, int32_t token, int32_t num_kv_heads, int32_t kv_head, int32_t head_dim) {
  const int64_t page = page_table[token / kPageTokens];
  const int64_t slot = token % kPageTokens;
  return ((page * num_kv_heads + kv_head) * kPageTokens + slot) * 2 * head_dim;
}

std::vector<double> Attend(const HeadQuery& query, const LayerPages& pages, const int32_t* page_table,
                           const std::vector<int32_t>& tokens) {
  const int32_t head_dim = query.head_dim;
  std::vector<double> logits;
  for (const int32_t token : tokens) {
    const int64_t key = KeyElement(page_table, token, query.num_kv_heads, query.kv_head, head_dim);
    double dot = 0;
    for (int32_t d = 0; d < head_dim; ++d) {
      dot += double{LoadElement(query.q, query.dtype, query.query_begin + d)} *
             double{LoadElement(pages.kv, query.dtype, key + d)};
    }
    logits.push_back(dot * query.softmax_scale);
  }
  double max_logit = -std::numeric_limits<double>::infinity();
  for (const double logit : logits) max_logit = std::max(max_logit, logit);

  std::vector<double> out(head_dim, 0.0);
  double sum = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t value = KeyElement(page_table, tokens[i], query.num_kv_heads, query.kv_head, head_dim) + head_dim;
    const double weight = std::exp(logits[i] - max_logit);
    sum += weight;
    for (int32_t d = 0; d < head_dim; ++d) out[d] += weight * double{LoadElement(pages.kv, query.dtype, value + d)};
  }
  if (!tokens.empty()) {
    for (double& x : out) x /= sum;
  }
  return out;
}

}  // namespace spotlight::kernels::reference
