// The same training on the GPU as on the CPU.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/training/synthetic_activations.h"
#include "training/hash_trainer.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 512;

struct CudaCase {
  const char* name;
  EncoderKind encoder;
  Loss loss;
  QueryForm query;
  bool per_query_head;
};

void PrintTo(const CudaCase& recipe, std::ostream* out) {
  *out << recipe.name;
}

Activations Sequence(uint64_t seed, at::Device device) {
  Activations sequence = testing::RandomActivations(testing::SmallShape(), kTokens, seed);
  sequence.q = sequence.q.to(device, at::kBFloat16);
  sequence.k = sequence.k.to(device, at::kBFloat16);
  return sequence;
}

class HashTrainerCudaTest : public ::testing::TestWithParam<CudaCase> {};

TEST_P(HashTrainerCudaTest, TrainsAsTheCpuDoes) {
  Recipe recipe;
  recipe.encoder = GetParam().encoder;
  recipe.loss = GetParam().loss;
  recipe.query = GetParam().query;
  recipe.per_query_head = GetParam().per_query_head;
  recipe.hash_bits = 64;
  recipe.key_hidden = recipe.query_hidden = 32;
  recipe.steps = 40;
  recipe.tokens_per_sequence = kTokens;
  recipe.queries_per_step = 32;
  const auto create = [&](at::Device device) {
    auto trainer = HashTrainer::Create(recipe, testing::SmallShape(), {Sequence(100, at::kCPU)}, device);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  };
  const auto cpu = create(at::kCPU), cuda = create(at::Device("cuda:0"));
  for (int32_t step = 0; step < recipe.steps; ++step) {
    // On the device or off it.
    const double expected = cpu->Step(Sequence(step % 4, at::kCPU), step).loss;
    const double loss = cuda->Step(Sequence(step % 4, step % 2 ? at::Device("cuda:0") : at::kCPU), step).loss;
    // Hard decisions on thresholds part the two a little more every step.
    EXPECT_NEAR(loss, expected, (step == 0 ? 1e-4 : 1e-2) * expected) << step;
  }
  const HeldOutFigures expected = cpu->Evaluate(Sequence(50, at::kCPU), 0);
  const HeldOutFigures figures = cuda->Evaluate(Sequence(50, at::kCPU), 0);
  EXPECT_NEAR(figures.recall, expected.recall, 0.01);
  EXPECT_NEAR(figures.candidate_mass, expected.candidate_mass, 0.01);
  EXPECT_NEAR(figures.iou, expected.iou, 0.01);

  // What was trained on one device goes on on the other.
  ASSERT_TRUE(cpu->Restore(cuda->State()).ok());
  const HeldOutFigures moved = cpu->Evaluate(Sequence(50, at::kCPU), 0);
  EXPECT_NEAR(figures.recall, moved.recall, 2e-3);
  EXPECT_NEAR(figures.candidate_mass, moved.candidate_mass, 2e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, HashTrainerCudaTest,
    ::testing::Values(CudaCase{"z", EncoderKind::kZ, Loss::kCrossEntropy, QueryForm::kReal, false},
                      CudaCase{"linear", EncoderKind::kLinear, Loss::kSoftTopK, QueryForm::kBits, false},
                      CudaCase{"paper", EncoderKind::kPaper, Loss::kBradleyTerry, QueryForm::kBits, true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace spotlight::training
