// The model against transformers (fp32, CPU): tests/testdata/goldens holds what it said, tools/goldens what asked it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/testing/default_model.h"
#include "tests/testing/model_harness.h"

namespace spotlight {
namespace {

using nlohmann::json;
using testing::HarnessOptions;
using testing::ModelHarness;

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return json::parse(file);
}

// A copy of `folder`'s config.json with a golden's changes, beside links to everything else.
std::string WithChanges(const std::string& folder, const json& changes) {
  if (changes.empty()) return folder;
  namespace fs = std::filesystem;
  const fs::path copy = fs::path(::testing::TempDir()) / ("changed-" + fs::path(folder).filename().string());
  fs::remove_all(copy);
  fs::create_directories(copy);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != "config.json") {
      fs::create_symlink(fs::absolute(entry.path()), copy / entry.path().filename());
    }
  }
  json config = ReadJson(folder + "/config.json");
  config.update(changes);
  std::ofstream(copy / "config.json") << config;
  return copy.string();
}

void ExpectGoldens(const std::string& model_folder, const std::string& golden_path, at::Device device) {
  const json golden = ReadJson(golden_path);
  HarnessOptions options;
  options.device = device;
  options.chunk_tokens = 24;  // so that prompts take several chunks
  auto harness = ModelHarness::Create(WithChanges(model_folder, golden["config_changes"]), options);
  ASSERT_TRUE(harness.ok()) << harness.status();
  for (const json& example : golden["cases"]) {
    SCOPED_TRACE(example["name"].get<std::string>());
    const auto prompt = example["prompt_token_ids"].get<std::vector<int32_t>>();
    auto logits = (*harness)->Prefill(prompt);
    ASSERT_TRUE(logits.ok()) << logits.status();
    double norm = 0;
    for (float value : *logits) norm += double{value} * value;
    norm = std::sqrt(norm);
    EXPECT_NEAR(norm / example["logits_norm"].get<double>(), 1, 1e-3);
    const auto ids = example["logits"]["token_ids"].get<std::vector<int32_t>>();
    const auto values = example["logits"]["values"].get<std::vector<double>>();
    double error = 0, reference = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      error += std::pow((*logits)[ids[i]] - values[i], 2);
      reference += values[i] * values[i];
    }
    EXPECT_LT(std::sqrt(error / reference), 1e-3);

    const auto expected = example["output_token_ids"].get<std::vector<int32_t>>();
    auto output = (*harness)->Greedy(prompt, static_cast<int32_t>(expected.size()));
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(*output, expected);
  }
}

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kTestDevice = at::kCUDA;
#else
constexpr at::DeviceType kTestDevice = at::kCPU;
#endif

#ifndef TEST_ON_CUDA  // 269 MB that a borrowed GPU machine need not have
TEST(GoldenTest, SmolLm2EqualsTransformers) {
  const std::string folder = testing::DefaultModelFolder();
  ASSERT_TRUE(std::filesystem::exists(folder + "/config.json")) << folder << " is missing: run 'make model'";
  ExpectGoldens(folder, "tests/testdata/goldens/greedy_smollm2.json", kTestDevice);
}
#endif

TEST(GoldenTest, TinyLlamaWithLlama3RopeEqualsTransformers) {
  ExpectGoldens("tests/testdata/tiny-llama", "tests/testdata/goldens/greedy_tiny_llama.json", kTestDevice);
}

TEST(GoldenTest, TinyQwen2WithBiasesEqualsTransformers) {
  ExpectGoldens("tests/testdata/tiny-qwen2", "tests/testdata/goldens/greedy_tiny_qwen2.json", kTestDevice);
}

TEST(GoldenTest, TinyQwen2WithYarnEqualsTransformers) {
  ExpectGoldens("tests/testdata/tiny-qwen2", "tests/testdata/goldens/greedy_tiny_qwen2_yarn.json", kTestDevice);
}

TEST(GoldenTest, TinyMistralEqualsTransformers) {
  ExpectGoldens("tests/testdata/tiny-llama", "tests/testdata/goldens/greedy_tiny_mistral.json", kTestDevice);
}

}  // namespace
}  // namespace spotlight
