#include "kernels/reference/sparse_decode.h"

#include <algorithm>
#include <numeric>

#include "kernels/numeric.h"
#include "kernels/planes.h"
#include "kernels/reference/attention.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::reference {
namespace {

// Keeps the `count` best of `tokens` by (score over the first `words` words descending, index ascending); ascending.
void KeepBest(const SparseDecodeParams& params, int32_t row, int32_t kv_head, int words, size_t count,
              std::vector<int32_t>* tokens) {
  const int32_t* page_table = params.page_table + int64_t{row} * params.max_pages;
  const uint32_t* planes =
      params.planes + (int64_t{row} * params.num_kv_heads + kv_head) * params.num_planes * params.hash_words;
  std::vector<std::pair<int32_t, int32_t>> ranked;  // (-score, token)
  for (const int32_t token : *tokens) {
    const int64_t page = page_table[token / kPageTokens];
    const int64_t entry = (page * params.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
    const int32_t score = RawScore(params.pages.codes + entry * params.hash_words, planes, words, params.hash_words,
                                   params.num_planes, params.top_plane_weight);
    ranked.emplace_back(-score, token);
  }
  std::sort(ranked.begin(), ranked.end());
  if (ranked.size() > count) ranked.resize(count);
  tokens->clear();
  for (const auto& [score, token] : ranked) tokens->push_back(token);
  std::sort(tokens->begin(), tokens->end());
}

}  // namespace

std::vector<int32_t> SelectTokens(const SparseDecodeParams& params, int32_t row, int32_t kv_head) {
  const Competition competition =
      CompetitionOf(params.context_len[row], params.num_select[row], params.sink_tokens, params.recent_tokens);
  if (competition.num_select == 0) return {};
  std::vector<int32_t> tokens(competition.count);
  std::iota(tokens.begin(), tokens.end(), competition.begin);
  const size_t num_select = competition.num_select;
  if (params.prefilter) KeepBest(params, row, kv_head, 1, kPrefilterFactor * num_select, &tokens);
  KeepBest(params, row, kv_head, params.hash_words, num_select, &tokens);
  return tokens;
}

void SparseDecode(const SparseDecodeParams& params) {
  const int32_t group = params.num_q_heads / params.num_kv_heads;
  for (int32_t row = 0; row < params.num_rows; ++row) {
    const int32_t context_len = params.context_len[row];
    const Competition competition =
        CompetitionOf(context_len, params.num_select[row], params.sink_tokens, params.recent_tokens);
    for (int32_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      const std::vector<int32_t> selected = SelectTokens(params, row, kv_head);
      const TokenList list = TokensOf(competition, selected.data(), context_len);
      std::vector<int32_t> tokens;
      for (int32_t i = 0; i < list.size(); ++i) tokens.push_back(list[i]);

      const int64_t row_head = int64_t{row} * params.num_kv_heads + kv_head;
      for (int32_t i = 0; params.selected != nullptr && i < params.max_select; ++i) {
        params.selected[row_head * params.max_select + i] =
            i < static_cast<int32_t>(selected.size()) ? selected[i] : -1;
      }
      if (params.num_selected != nullptr) params.num_selected[row_head] = static_cast<int32_t>(selected.size());

      for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const int64_t begin = (int64_t{row} * params.num_q_heads + head) * params.head_dim;
        const HeadQuery query{params.q, begin,           params.dtype,        params.num_kv_heads,
                              kv_head,  params.head_dim, params.softmax_scale};
        const std::vector<double> out =
            Attend(query, params.pages, params.page_table + int64_t{row} * params.max_pages, tokens);
        for (int32_t d = 0; d < params.head_dim; ++d) {
          StoreElement(static_cast<float>(out[d]), params.out, params.dtype, begin + d);
        }
      }
    }
  }
}

}  // namespace spotlight::kernels::reference
