#include "engine/quality_policy.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

ModelInfo HashedModel(int32_t num_layers) {
  ModelInfo model;
  model.hash.present = model.hash.trained = true;
  for (int32_t layer = 2; layer < 2 + num_layers; ++layer) model.hash.layers.push_back(layer);
  return model;
}

QualityPolicy Policy(const QualityOptions& options, int32_t num_layers = 5) {
  return *QualityPolicy::Create(options, {}, HashedModel(num_layers));
}

QualityOptions Guarded(double floor, int32_t low_samples, QualityFallback fallback = QualityFallback::kDense) {
  QualityOptions options;
  options.sample_every = 1;
  options.floor = floor;
  options.low_samples = low_samples;
  options.fallback = fallback;
  return options;
}

RetrievalQuality Mass(float mass) {
  return {0.5f, 0.25f, mass, 0.1f};
}

// Of a row that was planned with the sequence as it is.
QualitySample Judge(const QualityPolicy& policy, const RetrievalQuality& measured, int32_t layer, Sequence* sequence) {
  return policy.Judge({{0, layer, sequence->id, sequence->quality.fallback.count}, measured}, sequence);
}

// Sequences that decode, step after step: all of them sparse, behind one dense row.
class Rows {
 public:
  explicit Rows(int count) : sequences_(count) {
    for (int i = 0; i < count; ++i) {
      sequences_[i].id = i;
      sequences_[i].output_token_ids.assign(7, 1);
    }
  }
  Sequence& operator[](int i) { return sequences_[i]; }
  // The plan whose sparse rows are these sequences, in this order.
  StepPlan Plan(const std::vector<int>& sparse) {
    StepPlan plan;
    plan.rows.resize(1);
    plan.rows[0].sequence = &dense_;
    for (const int i : sparse) {
      plan.rows.emplace_back();
      plan.rows.back().sequence = &sequences_[i];
    }
    plan.num_dense_rows = 1;
    plan.num_decode_rows = static_cast<int32_t>(plan.rows.size());
    return plan;
  }

 private:
  Sequence dense_;
  std::vector<Sequence> sequences_;
};

TEST(QualityPolicyTest, SamplesOneSparseStepInN) {
  QualityOptions options;
  options.sample_every = 4;
  QualityPolicy policy = Policy(options);
  Rows rows(1);
  const StepPlan sparse = rows.Plan({0}), dense = rows.Plan({});
  std::vector<int> sampled;
  for (int step = 1; step <= 12; ++step) {
    EXPECT_FALSE(policy.PlanSample(dense).has_value());  // does not count
    if (policy.PlanSample(sparse).has_value()) sampled.push_back(step);
  }
  EXPECT_EQ(sampled, (std::vector<int>{4, 8, 12}));
}

TEST(QualityPolicyTest, ZeroSamplesNothing) {
  QualityOptions options;
  options.sample_every = 0;
  QualityPolicy policy = Policy(options);
  Rows rows(1);
  for (int step = 0; step < 1000; ++step) EXPECT_FALSE(policy.PlanSample(rows.Plan({0})).has_value());
}

TEST(QualityPolicyTest, RowsTakeTurns) {
  QualityPolicy policy = Policy(Guarded(0, 1));
  Rows rows(4);
  std::vector<uint64_t> order;
  const auto sample = [&](const std::vector<int>& sparse) {
    const StepPlan plan = rows.Plan(sparse);
    const auto target = policy.PlanSample(plan);
    ASSERT_TRUE(target.has_value());
    ASSERT_GE(target->row, plan.num_dense_rows);
    order.push_back(plan.rows[target->row].sequence->id);
  };
  for (int i = 0; i < 4; ++i) sample({2, 0, 1});
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 1, 2, 0}));
  order.clear();
  for (int i = 0; i < 5; ++i) sample({3, 2, 1, 0});  // 3 joins at the end of the line
  EXPECT_EQ(order, (std::vector<uint64_t>{1, 2, 0, 3, 1}));
}

TEST(QualityPolicyTest, NewcomersDoNotStarveARow) {
  QualityPolicy policy = Policy(Guarded(0, 1));
  Rows rows(200);
  int samples_of_first = 0;
  for (int step = 1; step < 199; ++step) {  // two new rows at every step, each for three steps
    const StepPlan plan = rows.Plan({0, step, step + 1});
    samples_of_first += plan.rows[policy.PlanSample(plan)->row].sequence->id == 0;
  }
  EXPECT_GT(samples_of_first, 40);
}

TEST(QualityPolicyTest, ARequestsSamplesVisitEveryHashedLayerFarOnesInTurn) {
  for (const int32_t num_layers : {1, 2, 3, 4, 6, 26, 28, 80}) {
    QualityPolicy policy = Policy(Guarded(0, 1), num_layers);
    Rows rows(3);
    std::map<int, std::vector<int32_t>> layers;
    for (int i = 0; i < num_layers; ++i) {
      for (const int sequence : {1, 2}) layers[sequence].push_back(policy.PlanSample(rows.Plan({sequence}))->layer);
    }
    EXPECT_EQ(std::set<int32_t>(layers[1].begin(), layers[1].end()).size(), static_cast<size_t>(num_layers));
    EXPECT_EQ(*std::min_element(layers[1].begin(), layers[1].end()), 2);
    if (num_layers == 1) continue;
    EXPECT_NE(layers[1][0], layers[2][0]) << num_layers;
    if (num_layers < 6) continue;
    EXPECT_GE(std::abs(layers[1][1] - layers[1][0]), num_layers / 6) << num_layers;
  }
}

TEST(QualityPolicyTest, TheSameStepsGiveTheSameSamples) {
  std::vector<std::pair<int32_t, int32_t>> runs[2];
  for (auto& run : runs) {
    QualityPolicy policy = Policy(Guarded(0, 1), 26);
    Rows rows(5);
    for (int i = 0; i < 50; ++i) {
      const auto target = policy.PlanSample(rows.Plan({0, 1 + i % 4}));
      run.emplace_back(target->row, target->layer);
    }
  }
  EXPECT_EQ(runs[0], runs[1]);
}

TEST(QualityPolicyTest, WithoutAFloorNothingIsLow) {
  const QualityPolicy policy = Policy(Guarded(0, 1));
  Sequence sequence;
  EXPECT_EQ(Judge(policy, Mass(0), 2, &sequence).outcome, QualityOutcome::kGood);
  EXPECT_EQ(sequence.quality.fallback.count, 0);
}

TEST(QualityPolicyTest, FallsBackToDenseAfterLowSamplesInARow) {
  const QualityPolicy policy = Policy(Guarded(0.75, 3));
  Rows rows(1);
  for (const float mass : {0.1f, 0.1f, 0.75f, 0.1f, 0.74f}) {
    const QualitySample sample = Judge(policy, Mass(mass), 2, &rows[0]);
    EXPECT_EQ(sample.outcome, mass < 0.75f ? QualityOutcome::kLow : QualityOutcome::kGood) << mass;
    EXPECT_FALSE(sample.fallback.has_value());
  }
  const QualitySample last = Judge(policy, Mass(0.2f), 4, &rows[0]);
  EXPECT_EQ(last.layer, 4);
  EXPECT_EQ(last.fallback, QualityFallback::kDense);
  EXPECT_TRUE(rows[0].quality.fallback.dense);
  EXPECT_EQ(rows[0].quality.fallback.count, 1);
  EXPECT_EQ(rows[0].quality.fallback.after_tokens, 7);
}

TEST(QualityPolicyTest, BudgetsGrowFourfoldUpToAQuarterThenDense) {
  const QualityPolicy policy = Policy(Guarded(0.9, 2, QualityFallback::kBudget));
  Rows rows(1);
  std::vector<double> budgets;
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(Judge(policy, Mass(0.5f), 2, &rows[0]).fallback.has_value());
    EXPECT_TRUE(Judge(policy, Mass(0.5f), 2, &rows[0]).fallback.has_value());
    budgets.push_back(rows[0].quality.fallback.dense ? 1 : rows[0].quality.fallback.budget_ratio);
    if (rows[0].quality.fallback.dense) break;
  }
  EXPECT_EQ(budgets, (std::vector<double>{0.08, 0.25, 1}));
}

TEST(QualityPolicyTest, SuspectsAreMeasuredFirst) {
  QualityPolicy policy = Policy(Guarded(0.9, 3));
  Rows rows(3);
  std::vector<uint64_t> order;
  const std::map<uint64_t, std::vector<float>> masses = {{0, {1, 1, 1}}, {1, {0.1f, 0.1f, 1, 1}}, {2, {1, 1}}};
  std::map<uint64_t, size_t> taken;
  for (int i = 0; i < 7; ++i) {
    const StepPlan plan = rows.Plan({0, 1, 2});
    const auto target = policy.PlanSample(plan);
    Sequence* const sequence = plan.rows[target->row].sequence;
    Judge(policy, Mass(masses.at(sequence->id)[taken[sequence->id]++]), target->layer, sequence);
    order.push_back(sequence->id);
  }
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 1, 1, 1, 2, 0, 1}));
}

TEST(QualityPolicyTest, WhatIsNotFiniteTellsNothing) {
  const QualityPolicy policy = Policy(Guarded(0.9, 2));
  Sequence sequence;
  Judge(policy, Mass(0.1f), 2, &sequence);
  EXPECT_EQ(Judge(policy, Mass(std::numeric_limits<float>::quiet_NaN()), 2, &sequence).outcome,
            QualityOutcome::kNotFinite);
  RetrievalQuality infinite = Mass(0.1f);
  infinite.output_error = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Judge(policy, infinite, 2, &sequence).outcome, QualityOutcome::kNotFinite);
  EXPECT_EQ(sequence.quality.fallback.count, 0);
  EXPECT_TRUE(Judge(policy, Mass(0.1f), 2, &sequence).fallback.has_value());
}

TEST(QualityPolicyTest, WhatWasPlannedBeforeAFallbackCausesNoOther) {
  const QualityPolicy policy = Policy(Guarded(0.9, 1, QualityFallback::kBudget));
  Sequence sequence;
  const QualityReading early = {{0, 2, 0, 0}, Mass(0.1f)};
  EXPECT_TRUE(policy.Judge(early, &sequence).fallback.has_value());
  const QualitySample late = policy.Judge(early, &sequence);
  EXPECT_EQ(late.outcome, QualityOutcome::kLow);
  EXPECT_FALSE(late.fallback.has_value());
  EXPECT_EQ(sequence.quality.fallback.count, 1);
  EXPECT_EQ(sequence.quality.num_low_samples, 0);
  EXPECT_TRUE(Judge(policy, Mass(0.1f), 2, &sequence).fallback.has_value());
}

TEST(QualityPolicyTest, ALostSampleIsTakenAgainOnce) {
  QualityOptions options;
  options.sample_every = 10;
  QualityPolicy policy = Policy(options);
  Rows rows(1);
  const StepPlan sparse = rows.Plan({0}), dense = rows.Plan({});
  std::vector<int> sampled;
  for (int step = 1; step <= 30; ++step) {
    EXPECT_FALSE(policy.PlanSample(dense).has_value());
    if (policy.PlanSample(sparse).has_value()) sampled.push_back(step);
    if (step == 11 || step == 13) policy.OnLost();  // the tenth step's, then what was taken in its place
  }
  EXPECT_EQ(sampled, (std::vector<int>{10, 12, 20, 30}));
}

TEST(QualityPolicyTest, OptionsOutOfRangeAreNamed) {
  const auto status = [](const QualityOptions& options) {
    return QualityPolicy::Create(options, {}, HashedModel(2)).status();
  };
  QualityOptions options = Guarded(0.9, 0);
  EXPECT_EQ(status(options).message(), "quality low_samples: must be at least 1, got 0");
  options = Guarded(1.5, 1);
  EXPECT_EQ(status(options).message(), "quality floor: must be in [0, 1], got 1.5");
  options = Guarded(std::numeric_limits<double>::quiet_NaN(), 1);
  EXPECT_FALSE(status(options).ok());
  options = Guarded(0.9, 1);
  options.sample_every = 0;
  EXPECT_EQ(status(options).message(), "quality floor: 0.9 needs samples, and quality sample_every is 0");
  options.sample_every = -1;
  EXPECT_EQ(status(options).message(), "quality sample_every: must be at least 0, got -1");
}

}  // namespace
}  // namespace spotlight::engine
