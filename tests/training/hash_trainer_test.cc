#include "training/hash_trainer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/training/synthetic_activations.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 512;

// Work this small is slower on many threads.
[[maybe_unused]] const bool kOneThread = [] {
  at::set_num_threads(1);
  return true;
}();

Recipe SmallRecipe() {
  Recipe recipe;
  recipe.hash_bits = 64;
  recipe.key_hidden = recipe.query_hidden = 32;
  recipe.steps = 150;
  recipe.tokens_per_sequence = kTokens;
  recipe.queries_per_step = 32;
  return recipe;
}

Activations Sequence(uint64_t seed) {
  return testing::RandomActivations(testing::SmallShape(), kTokens, seed);
}

std::unique_ptr<HashTrainer> NewTrainer(const Recipe& recipe) {
  auto trainer = HashTrainer::Create(recipe, testing::SmallShape(), {Sequence(1000), Sequence(1001)}, at::kCPU);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  return *std::move(trainer);
}

void Train(HashTrainer* trainer, int32_t begin, int32_t end) {
  for (int32_t step = begin; step < end; ++step) trainer->Step(Sequence(step % 8), step);
}

HeldOutFigures HeldOut(const HashTrainer& trainer) {
  return trainer.Evaluate(Sequence(5000), 0);
}

void ExpectEqual(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

struct TrainingCase {
  const char* name;
  EncoderKind encoder;
  Loss loss;
  QueryForm query;
  bool per_query_head;
  int32_t steps;
  double min_gain;  // of held-out recall over the random rotations
};

void PrintTo(const TrainingCase& training, std::ostream* out) {
  *out << training.name;
}

class HashTrainerLearningTest : public ::testing::TestWithParam<TrainingCase> {};

TEST_P(HashTrainerLearningTest, RaisesHeldOutRecallWellAboveRandomRotations) {
  Recipe recipe = SmallRecipe();
  recipe.encoder = GetParam().encoder;
  recipe.loss = GetParam().loss;
  recipe.query = GetParam().query;
  recipe.per_query_head = GetParam().per_query_head;
  recipe.steps = GetParam().steps;
  const auto trainer = NewTrainer(recipe);
  const HeldOutFigures before = HeldOut(*trainer);
  Train(trainer.get(), 0, recipe.steps);
  const HeldOutFigures after = HeldOut(*trainer);
  RecordProperty("before", std::to_string(before.recall));
  RecordProperty("after", std::to_string(after.recall));
  EXPECT_GT(after.recall, before.recall + GetParam().min_gain) << before.recall;
  EXPECT_GT(after.candidate_mass, before.candidate_mass);
  EXPECT_GT(after.iou, before.iou);
  EXPECT_LE(after.recall, 1);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, HashTrainerLearningTest,
    ::testing::Values(
        TrainingCase{"z", EncoderKind::kZ, Loss::kCrossEntropy, QueryForm::kReal, false, 150, 0.15},
        TrainingCase{"z_soft_topk", EncoderKind::kZ, Loss::kSoftTopK, QueryForm::kReal, false, 150, 0.15},
        TrainingCase{"linear", EncoderKind::kLinear, Loss::kCrossEntropy, QueryForm::kBits, false, 300, 0.03},
        TrainingCase{"paper", EncoderKind::kPaper, Loss::kBradleyTerry, QueryForm::kBits, true, 100, 0.05}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(HashTrainerTest, ResumesBitForBit) {
  Recipe recipe = SmallRecipe();
  recipe.steps = 8;
  const auto undisturbed = NewTrainer(recipe);
  Train(undisturbed.get(), 0, 8);

  const auto first = NewTrainer(recipe);
  Train(first.get(), 0, 5);
  // Created from other sequences: everything must come from the state.
  auto second = HashTrainer::Create(recipe, testing::SmallShape(), {Sequence(77)}, at::kCPU);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE((*second)->Restore(first->State()).ok());
  Train(second->get(), 5, 8);
  ExpectEqual((*second)->State(), undisturbed->State());
  ExpectEqual((*second)->Export(), undisturbed->Export());
}

TEST(HashTrainerTest, AStateIsNoViewOfTheTrainer) {
  const auto trainer = NewTrainer(SmallRecipe());
  const auto state = trainer->State();
  const at::Tensor before = state.at("parameter.key.skip").clone();
  Train(trainer.get(), 0, 1);
  EXPECT_TRUE(at::equal(state.at("parameter.key.skip"), before));
  EXPECT_FALSE(at::equal(trainer->State().at("parameter.key.skip"), before));
}

TEST(HashTrainerTest, NamesTheTensorThatARestoredStateLacks) {
  const auto trainer = NewTrainer(SmallRecipe());
  auto state = trainer->State();
  state.erase("first_moment.query.w1");
  const absl::Status missing = trainer->Restore(state);
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(missing.message().find("first_moment.query.w1"), absl::string_view::npos) << missing;

  state = trainer->State();
  state["parameter.key.b2"] = state["parameter.key.b2"].narrow(2, 0, 32);
  const absl::Status shorter = trainer->Restore(state);
  EXPECT_NE(shorter.message().find("parameter.key.b2 is [4, 1, 32]; it must be [4, 1, 64]"), absl::string_view::npos)
      << shorter;
}

TEST(HashTrainerTest, RanksDrawTheirOwnQueriesAndStepsTheirs) {
  const auto loss = [](int32_t step, int32_t rank) {
    return NewTrainer(SmallRecipe())->Step(Sequence(3), step, rank).loss;
  };
  const double first = loss(0, 0);
  EXPECT_EQ(first, loss(0, 0));
  EXPECT_NE(first, loss(0, 1));
  EXPECT_NE(first, loss(1, 0));
}

TEST(HashTrainerTest, HandsEveryGradientToTheRanksMean) {
  const auto with_hook = NewTrainer(SmallRecipe());
  int64_t floats = 0;
  double squares = 0;
  with_hook->Step(Sequence(3), 0, 0, [&](std::vector<at::Tensor>& gradients) {
    for (at::Tensor& gradient : gradients) {
      floats += gradient.numel();
      squares += gradient.square().sum().item<double>();
      gradient.zero_();
    }
  });
  int64_t parameters = 0;
  const auto state = with_hook->State();
  for (const auto& [name, tensor] : state) {
    if (name.rfind("parameter.", 0) == 0) parameters += tensor.numel();
    // All gradients were replaced by zeros: nothing else reaches the optimiser.
    const bool moment = name.rfind("first_moment.", 0) == 0;
    EXPECT_FALSE(moment && tensor.count_nonzero().item<int64_t>() > 0) << name;
  }
  EXPECT_GE(floats, parameters);
  EXPECT_GT(squares, 0);
}

TEST(HashTrainerTest, TheNumberOfThreadsChangesNothing) {
  const auto train = [](int threads) {
    at::set_num_threads(threads);
    const auto trainer = NewTrainer(SmallRecipe());
    Train(trainer.get(), 0, 3);
    const HeldOutFigures figures = HeldOut(*trainer);
    at::set_num_threads(1);
    return std::make_pair(trainer->Export(), figures.recall + figures.candidate_mass + figures.iou);
  };
  const auto alone = train(1), together = train(2);
  ExpectEqual(alone.first, together.first);
  EXPECT_EQ(alone.second, together.second);
}

// Peak of what this thread has allocated since.
class PeakBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0, peak_ = 0;
};

TEST(HashTrainerTest, NeedsNoMoreMemoryThanItSaysAndNotMuchLess) {
  for (const EncoderKind encoder : {EncoderKind::kZ, EncoderKind::kLinear, EncoderKind::kPaper}) {
    Recipe recipe = SmallRecipe();
    recipe.encoder = encoder;
    recipe.tokens_per_sequence = 8192;
    if (encoder == EncoderKind::kPaper) {
      recipe.query = QueryForm::kBits;
      recipe.loss = Loss::kBradleyTerry;
      recipe.per_query_head = true;
    }
    const Activations sequence = testing::RandomActivations(testing::SmallShape(), 8192, 1);
    const auto peak = std::make_shared<PeakBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, peak);
    auto trainer = HashTrainer::Create(recipe, testing::SmallShape(16384), {sequence}, at::kCPU);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    for (int32_t step = 0; step < 4; ++step) (*trainer)->Step(sequence, step);
    (*trainer)->Evaluate(sequence, 0);
    const int64_t promised = HashTrainer::StepBytes(recipe, testing::SmallShape(16384), c10::kCPU);
    EXPECT_LE(peak->peak(), promised) << static_cast<int>(encoder);
    EXPECT_GE(peak->peak(), promised / 3) << static_cast<int>(encoder);
  }
}

TEST(HashTrainerTest, SetsTheScoresSpreadOnce) {
  // Whatever the size of the activations, the first loss is about that of scores with a standard deviation of two.
  const auto loss = [](double size) {
    Activations sample = Sequence(3);
    Recipe recipe = SmallRecipe();
    recipe.position_mix = false;
    sample.k.mul_(size);
    sample.q.div_(size);
    auto trainer = HashTrainer::Create(recipe, testing::SmallShape(), {sample}, at::kCPU);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return (*trainer)->Step(sample, 0).loss;
  };
  EXPECT_NEAR(loss(1), loss(64), 1e-3 * loss(1));
}

TEST(HashTrainerTest, NamesTheFieldAtFault) {
  const auto error = [](const std::function<void(Recipe*, HashShape*)>& change) {
    Recipe recipe = SmallRecipe();
    HashShape shape = testing::SmallShape();
    change(&recipe, &shape);
    const auto trainer = HashTrainer::Create(recipe, shape, {Sequence(1)}, at::kCPU);
    EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(trainer.status().message());
  };
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->hash_bits = 48; }),
            "recipe.hash_bits is 48; it must be 32, 64, 128 or 256");
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->prefix_bits = 96; }),
            "recipe.prefix_bits is 96; it must be a multiple of 32 in [0, 64]");
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->num_planes = 5; }), "recipe.num_planes is 5; it must be in [1, 4]");
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->tokens_per_sequence = 100; }),
            "recipe.tokens_per_sequence is 100; it must be at least 256");
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->key_hidden = 24; }),
            "recipe.key_hidden is 24; it must be a multiple of 16 in [16, 4096]");
  EXPECT_EQ(error([](Recipe* r, HashShape*) { r->encoder = EncoderKind::kPaper; }),
            "recipe.query is real; the paper's encoder compares bits with bits");
  EXPECT_EQ(error([](Recipe*, HashShape* s) { s->num_q_heads = 5; }),
            "the number of query heads is 5; it must be a multiple of 2 KV heads");
  EXPECT_EQ(HashTrainer::Create(SmallRecipe(), testing::SmallShape(), {}, at::kCPU).status().message(),
            "there is no sequence to measure keys and queries on");
}

TEST(HashTrainerTest, RefusesActivationsOfAnotherShape) {
  const auto trainer = NewTrainer(SmallRecipe());
  Activations sequence = Sequence(1);
  sequence.q = sequence.q.narrow(1, 0, 2);
  EXPECT_THROW(trainer->Step(sequence, 0), c10::Error);
  sequence = Sequence(1);
  sequence.q = sequence.q.narrow(2, 0, 100);
  sequence.k = sequence.k.narrow(2, 0, 100);
  EXPECT_THROW(trainer->Step(sequence, 0), c10::Error);
}

}  // namespace
}  // namespace spotlight::training
