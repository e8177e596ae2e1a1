#include "kernels/planes.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace spotlight::kernels {
namespace {

TEST(PlanesTest, SymmetricScoreIsTheSumOfMatchesForEveryGroup) {
  std::mt19937 random(1);
  for (int group = 1; group <= 15; ++group) {
    for (const int words : {1, 2, 4, 8}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<uint32_t> queries(group * words), code(words);
        for (uint32_t& word : queries) word = random();
        for (uint32_t& word : code) word = random();
        std::vector<uint32_t> planes(SymmetricNumPlanes(group) * words);
        BuildSymmetricPlanes(queries.data(), group, words, planes.data());
        int naive = 0;
        for (int i = 0; i < group * words; ++i) naive += __builtin_popcount(~(queries[i] ^ code[i % words]));
        ASSERT_EQ(RawScore(code.data(), planes.data(), words, words, SymmetricNumPlanes(group),
                           SymmetricTopPlaneWeight(group)),
                  naive)
            << "G " << group << " W " << words;
      }
    }
  }
}

TEST(PlanesTest, SymmetricPlanesFitTheKernels) {
  for (int group = 1; group <= 15; ++group) {
    EXPECT_LE(SymmetricNumPlanes(group), 4);
    EXPECT_GE(SymmetricTopPlaneWeight(group), 1);
    EXPECT_LE(SymmetricTopPlaneWeight(group), 1 << (SymmetricNumPlanes(group) - 1));
  }
}

TEST(PlanesTest, AsymmetricScoreIsTheWeightedSumOfSigns) {
  std::mt19937 random(2);
  for (int num_planes = 1; num_planes <= 4; ++num_planes) {
    for (const int words : {1, 2, 4, 8}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        const int largest = (1 << num_planes) - 1, bits = 32 * words;
        std::vector<int32_t> weights(bits);
        for (int32_t& weight : weights) weight = static_cast<int32_t>(random() % (1u << num_planes)) * 2 - largest;
        std::vector<uint32_t> code(words), planes(num_planes * words);
        for (uint32_t& word : code) word = random();
        BuildAsymmetricPlanes(weights.data(), words, num_planes, planes.data());
        int naive = 0;
        for (int b = 0; b < bits; ++b) naive += (code[b / 32] >> b % 32 & 1u) != 0 ? weights[b] : -weights[b];
        const int raw =
            RawScore(code.data(), planes.data(), words, words, num_planes, AsymmetricTopPlaneWeight(num_planes));
        ASSERT_EQ(2 * raw - bits * largest, naive) << "J " << num_planes << " W " << words;
      }
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels
