#include "kernels/reference/retrieval_quality.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/numeric.h"
#include "kernels/reference/attention.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::reference {
namespace {

Competition CompetitionOfRow(const RetrievalQualityParams& params, int32_t row) {
  return CompetitionOf(params.context_len[row], params.num_select[row], params.sink_tokens, params.recent_tokens);
}

// The num_select candidates by (mass descending, index ascending); ascending.
std::vector<int32_t> LargestMasses(const std::vector<double>& mass, const Competition& competition) {
  std::vector<int32_t> tokens(competition.count);
  std::iota(tokens.begin(), tokens.end(), competition.begin);
  std::stable_sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return mass[a] > mass[b]; });
  tokens.resize(competition.num_select);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

double SumOver(const std::vector<double>& mass, const std::vector<int32_t>& tokens) {
  double sum = 0;
  for (const int32_t token : tokens) sum += mass[token];
  return sum;
}

double Share(double part, double whole) {
  return whole == 0 ? 1.0 : part / whole;
}

// ||sparse_out - dense|| / ||dense|| over the group's heads.
double OutputError(const RetrievalQualityParams& params, int32_t row, int32_t kv_head) {
  const int32_t group = params.num_q_heads / params.num_kv_heads;
  std::vector<int32_t> tokens(params.context_len[row]);
  std::iota(tokens.begin(), tokens.end(), 0);
  double error_squares = 0, dense_squares = 0;
  for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int64_t begin = (int64_t{row} * params.num_q_heads + head) * params.head_dim;
    const HeadQuery query{params.q, begin,           params.dtype,        params.num_kv_heads,
                          kv_head,  params.head_dim, params.softmax_scale};
    const std::vector<double> dense =
        Attend(query, params.pages, params.page_table + int64_t{row} * params.max_pages, tokens);
    for (int32_t d = 0; d < params.head_dim; ++d) {
      const double error = LoadElement(params.sparse_out, params.dtype, begin + d) - dense[d];
      error_squares += error * error;
      dense_squares += dense[d] * dense[d];
    }
  }
  return error_squares == 0 ? 0.0 : std::sqrt(error_squares / dense_squares);
}

}  // namespace

std::vector<double> GroupMass(const RetrievalQualityParams& params, int32_t row, int32_t kv_head) {
  const int32_t group = params.num_q_heads / params.num_kv_heads, context_len = params.context_len[row];
  const int32_t* page_table = params.page_table + int64_t{row} * params.max_pages;
  std::vector<double> mass(context_len, 0.0), logits(context_len);
  for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int64_t query = (int64_t{row} * params.num_q_heads + head) * params.head_dim;
    for (int32_t token = 0; token < context_len; ++token) {
      const int64_t entry = EntryOf(page_table, token, params.num_kv_heads, kv_head);
      double dot = 0;
      for (int32_t d = 0; d < params.head_dim; ++d) {
        dot += double{LoadElement(params.q, params.dtype, query + d)} *
               CachedElement(params.pages, params.dtype, entry, 0, params.head_dim, d);
      }
      logits[token] = dot * params.softmax_scale;
    }
    const double max_logit = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - max_logit);
    for (int32_t token = 0; token < context_len; ++token) mass[token] += std::exp(logits[token] - max_logit) / sum;
  }
  return mass;
}

std::vector<int32_t> OracleTokens(const RetrievalQualityParams& params, int32_t row, int32_t kv_head) {
  const Competition competition = CompetitionOfRow(params, row);
  if (competition.num_select == 0) return {};
  return LargestMasses(GroupMass(params, row, kv_head), competition);
}

void RetrievalQuality(const RetrievalQualityParams& params) {
  for (int32_t row = 0; row < params.num_rows; ++row) {
    const Competition competition = CompetitionOfRow(params, row);
    for (int32_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      const int64_t row_head = int64_t{row} * params.num_kv_heads + kv_head;
      if (competition.num_select == 0) {
        params.recall[row_head] = params.iou[row_head] = 1;
        params.candidate_mass[row_head] = params.oracle_mass[row_head] = params.attention_mass[row_head] = 1;
        params.output_error[row_head] = 0;
        continue;
      }
      const int32_t* begin = params.selected + row_head * params.max_select;
      const std::vector<int32_t> selected(begin, begin + params.num_selected[row_head]);
      const std::vector<double> mass = GroupMass(params, row, kv_head);
      const std::vector<int32_t> oracle = LargestMasses(mass, competition);
      std::vector<int32_t> both;
      std::set_intersection(selected.begin(), selected.end(), oracle.begin(), oracle.end(), std::back_inserter(both));

      std::vector<int32_t> candidates(competition.count), attended = selected;
      std::iota(candidates.begin(), candidates.end(), competition.begin);
      for (int32_t token = 0; token < params.context_len[row]; ++token) {
        const bool competes = token >= competition.begin && token < competition.begin + competition.count;
        if (!competes) attended.push_back(token);
      }
      const double candidate_mass = SumOver(mass, candidates);
      const double group = static_cast<double>(params.num_q_heads / params.num_kv_heads);
      const double hits = static_cast<double>(both.size());
      params.recall[row_head] = static_cast<float>(hits / oracle.size());
      params.iou[row_head] = static_cast<float>(hits / (selected.size() + oracle.size() - hits));
      params.candidate_mass[row_head] =
          selected.empty() ? 0.0f : static_cast<float>(Share(SumOver(mass, selected), candidate_mass));
      params.oracle_mass[row_head] = static_cast<float>(Share(SumOver(mass, oracle), candidate_mass));
      params.attention_mass[row_head] = static_cast<float>(SumOver(mass, attended) / group);
      params.output_error[row_head] = static_cast<float>(OutputError(params, row, kv_head));
    }
  }
}

}  // namespace spotlight::kernels::reference
