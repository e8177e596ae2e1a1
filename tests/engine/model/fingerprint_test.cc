#include "engine/model/fingerprint.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

constexpr char kKeyProjection[] = "model.layers.2.self_attn.k_proj.weight";
// sha256 of (i / 4 - 4 for i in range(2048)) as <f4, then b"\nrope_theta=10000.0\nrope_scaling=null\n", by Python's
// hashlib.
constexpr char kWant[] = "dd995740c00adc656e4cda006069ba44c36041fefc3c4ada3a13c5ec5b1c5116";

ModelConfig TinyConfig() {
  TempFolder folder;
  folder.Write("config.json", kTinyConfig);
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

std::vector<float> Values() {
  std::vector<float> values(2 * 16 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 4 - 4;
  return values;
}

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// A checkpoint that holds the key projection alone.
absl::StatusOr<std::string> FingerprintOf(const std::string& dtype, const std::string& data,
                                          const ModelConfig& config) {
  TempFolder folder;
  const std::string header = std::string(R"({")") + kKeyProjection + R"(": {"dtype": ")" + dtype +
                             R"(", "shape": [32, 64], "data_offsets": [0, )" + std::to_string(data.size()) + "]}}";
  folder.Write("model.safetensors", SafetensorsBytes(header, data));
  const auto checkpoint = Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) return checkpoint.status();
  return CheckpointFingerprint(**checkpoint, config);
}

TEST(FingerprintTest, IsTheDigestThatItsHeaderDescribes) {
  EXPECT_EQ(*FingerprintOf("F32", Bytes(Values()), TinyConfig()), kWant);
}

TEST(FingerprintTest, DoesNotDependOnTheStorageType) {
  // 1, -2 and 2^-24 (a subnormal in fp16) in turn.
  std::vector<float> values(2 * 16 * 64);
  std::vector<uint16_t> bf16(values.size()), f16(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::vector<float>{1, -2, 0x1p-24f}[i % 3];
    bf16[i] = std::vector<uint16_t>{0x3f80, 0xc000, 0x3380}[i % 3];
    f16[i] = std::vector<uint16_t>{0x3c00, 0xc000, 0x0001}[i % 3];
  }
  const std::string want = *FingerprintOf("F32", Bytes(values), TinyConfig());
  EXPECT_EQ(*FingerprintOf("BF16", Bytes(bf16), TinyConfig()), want);
  EXPECT_EQ(*FingerprintOf("F16", Bytes(f16), TinyConfig()), want);
}

TEST(FingerprintTest, DependsOnWeightsThetaAndScaling) {
  const ModelConfig config = TinyConfig();
  std::vector<float> values = Values();
  values.back() += 1;
  EXPECT_NE(*FingerprintOf("F32", Bytes(values), config), kWant);
  ModelConfig other = config;
  other.rope_theta = 10001;
  EXPECT_NE(*FingerprintOf("F32", Bytes(Values()), other), kWant);
  other = config;
  other.rope_scaling_json = R"({"factor":2.0,"rope_type":"linear"})";
  EXPECT_NE(*FingerprintOf("F32", Bytes(Values()), other), kWant);
}

TEST(FingerprintTest, RefusesModelsWithoutTheLayer) {
  ModelConfig config = TinyConfig();
  config.num_layers = 2;
  EXPECT_EQ(FingerprintOf("F32", Bytes(Values()), config).status().message(),
            "a model of 2 layers has no fingerprint: it needs at least 3");
  EXPECT_EQ(RandomWeightsFingerprint(config, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(FingerprintTest, RandomWeightsHaveOnePerSeed) {
  const ModelConfig config = TinyConfig();
  EXPECT_EQ(*RandomWeightsFingerprint(config, 1), *RandomWeightsFingerprint(config, 1));
  EXPECT_NE(*RandomWeightsFingerprint(config, 1), *RandomWeightsFingerprint(config, 2));
}

}  // namespace
}  // namespace spotlight::engine
