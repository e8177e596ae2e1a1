#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::reference {

int64_t EntryOf(const int32_t* page_table, int32_t token, int32_t num_kv_heads, int32_t kv_head) {
  const int64_t page = page_table[token / kPageTokens];
  return (page * num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
}

double CachedElement(const LayerPages& pages, DType dtype, int64_t entry, int side, int32_t head_dim, int32_t d) {
  const int64_t row = 2 * entry + side, element = row * head_dim + d;
  if (pages.kv_scale == nullptr) return LoadElement(pages.kv, dtype, element);
  return double{ToFloat(static_cast<const E4m3*>(pages.kv)[element])} * double{pages.kv_scale[row]};
}

std::vector<double> Attend(const HeadQuery& query, const LayerPages& pages, const int32_t* page_table,
                           const std::vector<int32_t>& tokens) {
  const int32_t head_dim = query.head_dim;
  std::vector<double> logits;
  for (const int32_t token : tokens) {
    const int64_t entry = EntryOf(page_table, token, query.num_kv_heads, query.kv_head);
    double dot = 0;
    for (int32_t d = 0; d < head_dim; ++d) {
      dot += double{LoadElement(query.q, query.dtype, query.query_begin + d)} *
             CachedElement(pages, query.dtype, entry, 0, head_dim, d);
    }
    logits.push_back(dot * query.softmax_scale);
  }
  double max_logit = -std::numeric_limits<double>::infinity();
  for (const double logit : logits) max_logit = std::max(max_logit, logit);

  std::vector<double> out(head_dim, 0.0);
  double sum = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t entry = EntryOf(page_table, tokens[i], query.num_kv_heads, query.kv_head);
    const double weight = std::exp(logits[i] - max_logit);
    sum += weight;
    for (int32_t d = 0; d < head_dim; ++d) {
      out[d] += weight * CachedElement(pages, query.dtype, entry, 1, head_dim, d);
    }
  }
  if (!tokens.empty()) {
    for (double& x : out) x /= sum;
  }
  return out;
}

}  // namespace spotlight::kernels::reference
