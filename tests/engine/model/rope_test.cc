#include "engine/model/rope.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;

absl::StatusOr<Rope> Read(const std::string& config) {
  return ReadRope(json::parse(config), 128, 32768);
}

std::string ErrorOf(const std::string& config) {
  const absl::StatusOr<Rope> rope = Read(config);
  return rope.ok() ? "OK" : std::string(rope.status().message());
}

// Steps of the fp32 grid between two positive numbers.
int UlpsBetween(float a, float b) {
  int32_t x, y;
  memcpy(&x, &a, 4);
  memcpy(&y, &b, 4);
  return std::abs(x - y);
}

// Made by tools/goldens/make_rope.py.
TEST(RopeTest, FrequenciesEqualThoseOfTransformers) {
  std::ifstream file("tests/engine/model/testdata/rope_goldens.json");
  const json cases = json::parse(file);
  ASSERT_GE(cases.size(), 17u);
  for (const json& golden : cases) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const json& config = golden["config"];
    const absl::StatusOr<Rope> rope = ReadRope(config, config["head_dim"], config["max_position_embeddings"]);
    ASSERT_TRUE(rope.ok()) << rope.status();
    const auto want = golden["inv_freq"].get<std::vector<float>>();
    ASSERT_EQ(rope->inv_freq.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_LE(UlpsBetween(rope->inv_freq[i], want[i]), 1) << i << ": " << rope->inv_freq[i] << " vs " << want[i];
    }
    EXPECT_FLOAT_EQ(rope->scale, golden["attention_factor"].get<float>());
  }
}

TEST(RopeTest, ThetaDefaultsToTenThousand) {
  EXPECT_EQ(Read("{}")->theta, 10000);
  EXPECT_EQ(Read(R"({"rope_theta": 500000})")->theta, 500000);
}

TEST(RopeTest, YarnExtendsTheContext) {
  EXPECT_EQ(Read(R"({"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}})")
                ->max_context_tokens,
            131072);
  EXPECT_EQ(Read(R"({"rope_scaling": {"type": "yarn", "factor": 2.5}})")->max_context_tokens, 81920);
  EXPECT_EQ(Read(R"({"rope_scaling": {"type": "linear", "factor": 4}})")->max_context_tokens, 32768);
}

TEST(RopeTest, EqualScalingsHaveEqualCanonicalText) {
  EXPECT_EQ(Read("{}")->scaling_json, "null");
  EXPECT_EQ(Read(R"({"rope_scaling": null})")->scaling_json, "null");
  EXPECT_EQ(Read(R"({"rope_scaling": {"rope_type": "default"}})")->scaling_json, "null");
  EXPECT_EQ(Read(R"({"rope_scaling": {"type": "linear", "factor": 8}})")->scaling_json,
            R"({"factor":8.0,"rope_type":"linear"})");
  const std::string text =
      Read(R"({"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}})")->scaling_json;
  EXPECT_EQ(text, R"({"attention_factor":1.138629436111989,"beta_fast":32.0,"beta_slow":1.0,"factor":4.0,)"
                  R"("original_max_position_embeddings":32768.0,"rope_type":"yarn","truncate":true})");
  EXPECT_EQ(Read(R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4, "beta_slow": 1,
                     "original_max_position_embeddings": 32768, "unknown": 1}})")
                ->scaling_json,
            text);
}

TEST(RopeTest, ReadsTheNewerRopeParameters) {
  const absl::StatusOr<Rope> rope = Read(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})");
  ASSERT_TRUE(rope.ok()) << rope.status();
  EXPECT_EQ(rope->theta, 500000);
  EXPECT_EQ(rope->inv_freq, Read(R"({"rope_theta": 500000.0})")->inv_freq);
  EXPECT_TRUE(Read(R"({"rope_parameters": {"rope_theta": 500000.0}})").ok());
}

struct Refusal {
  const char* config;
  const char* message;
};

class RopeRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RopeRefusalTest, NamesTheFieldAndTheReason) {
  EXPECT_EQ(ErrorOf(GetParam().config), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, RopeRefusalTest,
    testing::Values(
        Refusal{R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}})",
                R"(rope_scaling.type: "dynamic" is not supported (default, linear, llama3, yarn))"},
        Refusal{R"({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}})",
                R"(rope_scaling.rope_type: "longrope" is not supported (default, linear, llama3, yarn))"},
        Refusal{R"({"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2.0}})",
                R"(rope_scaling.type: is "linear", but rope_type is "yarn")"},
        Refusal{R"({"rope_scaling": {"factor": 2.0}})", "rope_scaling.rope_type: is missing"},
        Refusal{R"({"rope_scaling": {"type": 3}})", "rope_scaling.type: must be a string, is 3"},
        Refusal{R"({"rope_scaling": "yarn"})", R"(rope_scaling: must be an object or null, is "yarn")"},
        Refusal{R"({"rope_scaling": {"type": "linear"}})", "rope_scaling.factor: is missing"},
        Refusal{R"({"rope_scaling": {"type": "linear", "factor": 0.5}})",
                "rope_scaling.factor: must be in [1, 1e+06], is 0.5"},
        Refusal{R"({"rope_scaling": {"type": "linear", "factor": "2"}})",
                R"(rope_scaling.factor: must be a number, is "2")"},
        Refusal{R"({"rope_scaling": {"type": "llama3", "factor": 8, "high_freq_factor": 4,
                    "original_max_position_embeddings": 8192}})",
                "rope_scaling.low_freq_factor: is missing"},
        Refusal{R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}})",
                "rope_scaling.original_max_position_embeddings: is missing"},
        Refusal{R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                    "original_max_position_embeddings": 8192}})",
                "rope_scaling.high_freq_factor: must be over low_freq_factor (4), is 4"},
        Refusal{R"({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2}})",
                "rope_scaling.beta_fast: must be at least beta_slow (2), is 1"},
        Refusal{R"({"rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": -1}})",
                "rope_scaling.attention_factor: must be in (0, 1e+06], is -1"},
        Refusal{R"({"rope_scaling": {"type": "yarn", "factor": 900000}})",
                "rope_scaling.factor: times original_max_position_embeddings (32768) must be at most 1073741824, is "
                "2.94912e+10"},
        Refusal{R"({"rope_scaling": {"type": "yarn", "factor": 4, "truncate": 1}})",
                "rope_scaling.truncate: must be true or false, is 1"},
        Refusal{R"({"rope_theta": 1})", "rope_theta: must be in (1, 1e+15], is 1"},
        Refusal{R"({"rope_theta": -10000.0})", "rope_theta: must be in (1, 1e+15], is -10000.0"},
        Refusal{R"({"rope_theta": "10000"})", R"(rope_theta: must be a number, is "10000")"},
        Refusal{R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor: 0.5 is not supported (1 only)"},
        Refusal{R"({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}})",
                "rope_parameters.partial_rotary_factor: 0.25 is not supported (1 only)"},
        Refusal{R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})",
                "rope_parameters.full_attention: is an object: RoPE parameters per layer type are not supported"},
        Refusal{R"({"rope_parameters": {"rope_type": "yarn", "factor": 4}, "rope_scaling": {"type": "linear"}})",
                "rope_parameters: is set beside rope_scaling; a config holds one of them"}));

}  // namespace
}  // namespace spotlight::engine
