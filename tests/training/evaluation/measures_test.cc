// Measures against loops in double, and against the served kernels' own judge of retrieval.
#include "training/evaluation/measures.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <set>

#include "kernels/reference/retrieval_quality.h"
#include "tests/training/evaluation/selectors/random_queries.h"
#include "training/evaluation/selectors/exact.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 83;
constexpr double kRatio = 0.2;
const std::vector<int64_t> kPositions = {9, 30, 60, 82};  // the first sees too little to compete

std::set<int64_t> TokensOf(const at::Tensor& row) {
  std::set<int64_t> tokens;
  for (int64_t token = 0; token < row.size(0); ++token) {
    if (At(row, {token}) != 0) tokens.insert(token);
  }
  return tokens;
}

double Overlap(const std::set<int64_t>& a, const std::set<int64_t>& b) {
  double both = 0;
  for (const int64_t token : a) both += static_cast<double>(b.count(token));
  return both;
}

double Iou(const std::set<int64_t>& a, const std::set<int64_t>& b) {
  const double both = Overlap(a, b), either = a.size() + b.size() - both;
  return either == 0 ? 1 : both / either;
}

// One query of one query head, in double.
class HeadReference {
 public:
  HeadReference(const QuerySet& queries, int64_t head, int64_t g, int64_t n) : queries_(queries), head_(head) {
    const auto length = static_cast<int64_t>(At(queries.positions, {n})) + 1;
    for (int64_t token = 0; token < length; ++token) {
      logits_.push_back(Dot(queries, head, g, n, token) / std::sqrt(static_cast<double>(kHeadDim)));
    }
  }

  // Softmax over `tokens`, or over all that is seen.
  std::vector<double> Weights(const std::set<int64_t>* tokens, const at::Tensor* offset) const {
    std::vector<double> weights(logits_.size(), 0.0);
    double sum = 0;
    for (size_t token = 0; token < logits_.size(); ++token) {
      if (tokens != nullptr && tokens->count(token) == 0) continue;
      const double added = offset == nullptr ? 0 : At(*offset, {static_cast<int64_t>(token)});
      sum += weights[token] = std::exp(logits_[token] + added);
    }
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  std::vector<double> Output(const std::vector<double>& weights) const {
    std::vector<double> out(kHeadDim, 0.0);
    for (size_t token = 0; token < weights.size(); ++token) {
      for (int64_t d = 0; d < kHeadDim; ++d) {
        out[d] += weights[token] * At(queries_.v, {head_, static_cast<int64_t>(token), d});
      }
    }
    return out;
  }

 private:
  const QuerySet& queries_;
  const int64_t head_;
  std::vector<double> logits_;
};

double SumOver(const std::vector<double>& weights, const std::set<int64_t>& tokens) {
  double sum = 0;
  for (const int64_t token : tokens) sum += weights[token];
  return sum;
}

double SquaredDistance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

struct GroupReference {
  double values[kNumMeasures] = {};
};

GroupReference Judge(const QuerySet& queries, const Selection& selection, int64_t head, int64_t n) {
  const Range range = CompetitionAt(queries, n, kRatio);
  const auto length = static_cast<int64_t>(At(queries.positions, {n})) + 1;
  std::set<int64_t> candidates, always;
  for (int64_t token = 0; token < length; ++token) {
    (token >= range.begin && token < range.end ? candidates : always).insert(token);
  }
  std::vector<std::vector<double>> weights;
  for (int64_t g = 0; g < kGroup; ++g) weights.push_back(HeadReference(queries, head, g, n).Weights(nullptr, nullptr));
  const auto set_of = [](const std::vector<bool>& best) {
    std::set<int64_t> tokens;
    for (size_t i = 0; i < best.size(); ++i) {
      if (best[i]) tokens.insert(static_cast<int64_t>(i));
    }
    return tokens;
  };
  const auto oracle_b = set_of(BestOf(range, kTokens, [&](int64_t token) {
    double mass = 0;
    for (const auto& of_head : weights) mass += of_head[token];
    return mass;
  }));
  GroupReference out;
  double selected_mass = 0, candidate_mass = 0, error = 0, norm = 0;
  const auto add = [&](Measure measure, double value) { out.values[static_cast<int>(measure)] += value / kGroup; };
  for (int64_t g = 0; g < kGroup; ++g) {
    const HeadReference reference(queries, head, g, n);
    const auto oracle_a = set_of(BestOf(range, kTokens, [&](int64_t token) { return weights[g][token]; }));
    const auto selected = TokensOf(selection.mask[head][selection.mask.size(1) == 1 ? 0 : g][n]);
    std::set<int64_t> attended = always;
    attended.insert(selected.begin(), selected.end());
    at::Tensor offset;
    if (selection.logit_offset.defined()) {
      offset = selection.logit_offset[head][g][n].clone();
      for (const int64_t token : always) offset[token] = 0;  // what was not sampled is not corrected
    }
    const auto dense = reference.Output(weights[g]);
    const auto sparse = reference.Output(reference.Weights(&attended, offset.defined() ? &offset : nullptr));
    const double of_candidates = SumOver(weights[g], candidates), of_selected = SumOver(weights[g], selected);
    add(Measure::kIouA, Iou(selected, oracle_a));
    add(Measure::kRecB, oracle_b.empty() ? 1 : Overlap(selected, oracle_b) / oracle_b.size());
    add(Measure::kIouB, Iou(selected, oracle_b));
    add(Measure::kMassC, candidates.empty() ? 1 : of_selected / of_candidates);
    add(Measure::kMass, SumOver(weights[g], attended));
    const double distance = SquaredDistance(sparse, dense),
                 length_squared = SquaredDistance(dense, std::vector<double>(kHeadDim, 0.0));
    add(Measure::kErr, std::sqrt(distance / length_squared));
    add(Measure::kSelected, static_cast<double>(selected.size()));
    selected_mass += of_selected;
    candidate_mass += of_candidates;
    error += distance;
    norm += length_squared;
  }
  out.values[static_cast<int>(Measure::kGroupMassC)] = candidates.empty() ? 1 : selected_mass / candidate_mass;
  out.values[static_cast<int>(Measure::kGroupErr)] = std::sqrt(error / norm);
  return out;
}

void ExpectMeasures(const QuerySet& queries, const Selection& selection) {
  const at::Tensor measured = MeasureSelection(queries, ExactAttentionOf(queries), selection);
  ASSERT_EQ(measured.sizes(), (at::IntArrayRef{kNumMeasures, kKvHeads, static_cast<int64_t>(kPositions.size())}));
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (size_t n = 0; n < kPositions.size(); ++n) {
      const GroupReference expected = Judge(queries, selection, head, static_cast<int64_t>(n));
      for (int64_t m = 0; m < kNumMeasures; ++m) {
        EXPECT_NEAR(At(measured, {m, head, static_cast<int64_t>(n)}), expected.values[m], 1e-5)
            << kMeasureNames[m] << ", KV head " << head << ", query " << n;
      }
    }
  }
}

// Scores between the truth and chance: overlaps of every kind.
Selection Noisy(const QuerySet& queries, bool by_head) {
  const at::Tensor noise =
      Randn({kKvHeads, by_head ? kGroup : 1, static_cast<int64_t>(kPositions.size()), kTokens}, 77);
  const at::Tensor truth = by_head ? queries.probs : queries.probs.sum(1, /*keepdim=*/true);
  return {TopCandidates((truth + 1e-9).log() + noise, queries.candidates, queries.num_select), {}};
}

TEST(MeasuresTest, OfSetsThatAGroupShares) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 3);
  ExpectMeasures(queries, Noisy(queries, /*by_head=*/false));
}

TEST(MeasuresTest, OfSetsOfEachQueryHead) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 4);
  ExpectMeasures(queries, Noisy(queries, /*by_head=*/true));
}

TEST(MeasuresTest, OfSamplesWhoseLogitsAreCorrected) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 5);
  Selection selection = Noisy(queries, /*by_head=*/true);
  selection.logit_offset = Randn(queries.logits.sizes(), 78).abs();
  ExpectMeasures(queries, selection);
}

TEST(MeasuresTest, OfAnEmptySelection) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 6);
  ExpectMeasures(queries, {at::zeros({kKvHeads, 1, static_cast<int64_t>(kPositions.size()), kTokens}, at::kBool), {}});
}

TEST(MeasuresTest, OraclesReachWhatTheyAreMeasuredBy) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 7);
  const ExactAttention exact = ExactAttentionOf(queries);
  const at::Tensor a = MeasureSelection(queries, exact, *MakeOracleA()->Select(queries));
  const at::Tensor b = MeasureSelection(queries, exact, *MakeOracleB()->Select(queries));
  EXPECT_EQ(a[static_cast<int>(Measure::kIouA)].min().item<float>(), 1);
  EXPECT_EQ(b[static_cast<int>(Measure::kRecB)].min().item<float>(), 1);
  EXPECT_EQ(b[static_cast<int>(Measure::kIouB)].min().item<float>(), 1);
}

// What a server measures online in a sampled step is what is measured here.
TEST(MeasuresTest, AgreeWithRetrievalQuality) {
  constexpr int32_t kPages = 2;
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 8);
  const Selection selection = Noisy(queries, /*by_head=*/false);
  const at::Tensor measured = MeasureSelection(queries, ExactAttentionOf(queries), selection);
  std::vector<float> kv(size_t{kPages} * kKvHeads * kernels::kPageTokens * 2 * kHeadDim);
  for (int64_t token = 0; token < kTokens; ++token) {
    for (int64_t head = 0; head < kKvHeads; ++head) {
      for (int64_t d = 0; d < kHeadDim; ++d) {
        const int64_t row = (token / kernels::kPageTokens * kKvHeads + head) * kernels::kPageTokens;
        float* const out = kv.data() + (row + token % kernels::kPageTokens) * 2 * kHeadDim;
        out[d] = static_cast<float>(At(queries.k, {head, token, d}));
        out[kHeadDim + d] = static_cast<float>(At(queries.v, {head, token, d}));
      }
    }
  }
  const std::vector<int32_t> table = {0, 1};
  for (size_t n = 1; n < kPositions.size(); ++n) {
    const at::Tensor q = queries.q.select(2, static_cast<int64_t>(n)).contiguous();
    const auto length = static_cast<int32_t>(kPositions[n] + 1);
    const int32_t num_select = kernels::NumSelected(SmallBudget(kRatio), length);
    std::vector<int32_t> selected(kKvHeads * num_select), num_selected(kKvHeads, num_select);
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const auto tokens = TokensOf(selection.mask[head][0][static_cast<int64_t>(n)]);
      std::copy(tokens.begin(), tokens.end(), selected.begin() + head * num_select);
    }
    // The output under test, exact: attention to the selected tokens in fp32.
    const at::Tensor sparse = ExactlyAttendSelected(queries, selection).select(2, static_cast<int64_t>(n)).contiguous();
    std::vector<float> results(6 * kKvHeads);
    kernels::RetrievalQualityParams params;
    params.num_rows = 1;
    params.num_q_heads = kKvHeads * kGroup;
    params.num_kv_heads = kKvHeads;
    params.head_dim = kHeadDim;
    params.softmax_scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
    params.q = q.data_ptr();
    params.pages.kv = kv.data();
    params.pages.num_pages = kPages;
    params.page_table = table.data();
    params.max_pages = kPages;
    params.context_len = &length;
    params.num_select = &num_select;
    params.sink_tokens = SmallBudget(kRatio).sink_tokens;
    params.recent_tokens = SmallBudget(kRatio).recent_tokens;
    params.max_context = kTokens;
    params.selected = selected.data();
    params.max_select = num_select;
    params.num_selected = num_selected.data();
    params.sparse_out = sparse.data_ptr();
    float** const outputs[] = {&params.recall,         &params.iou,         &params.candidate_mass, &params.oracle_mass,
                               &params.attention_mass, &params.output_error};
    for (int i = 0; i < 6; ++i) *outputs[i] = results.data() + i * kKvHeads;
    kernels::reference::RetrievalQuality(params);
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const auto here = [&](Measure measure) {
        return At(measured, {static_cast<int64_t>(measure), head, static_cast<int64_t>(n)});
      };
      EXPECT_NEAR(here(Measure::kRecB), params.recall[head], 1e-6);
      EXPECT_NEAR(here(Measure::kIouB), params.iou[head], 1e-6);
      EXPECT_NEAR(here(Measure::kGroupMassC), params.candidate_mass[head], 1e-5);
      EXPECT_NEAR(here(Measure::kMass), params.attention_mass[head], 1e-5);
      EXPECT_NEAR(here(Measure::kGroupErr), params.output_error[head], 1e-5);
    }
  }
}

}  // namespace
}  // namespace spotlight::training
