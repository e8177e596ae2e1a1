#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;

constexpr double kTwoPi = 2 * M_PI;
constexpr double kMaxFactor = 1e6;
constexpr int32_t kMaxPositions = 1 << 30;

// theta ** (2i / head_dim) in fp32, exponent and result rounded, as torch.pow on fp32 tensors.
std::vector<float> PositionFrequencies(double theta, int32_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    frequencies[i] = static_cast<float>(std::pow(static_cast<double>(static_cast<float>(theta)), exponent));
  }
  return frequencies;
}

void ApplyLinear(ConfigFields& fields, Rope& rope, json& text) {
  const double factor = fields.Number("factor", 1, kMaxFactor, absl::nullopt, /*min_allowed=*/true);
  for (float& f : rope.inv_freq) f /= static_cast<float>(factor);
  text["factor"] = factor;
}

// Long waves are stretched by `factor`, short ones kept, and those between are mixed.
void ApplyLlama3(ConfigFields& fields, Rope& rope, json& text) {
  const double factor = fields.Number("factor", 1, kMaxFactor, absl::nullopt, /*min_allowed=*/true);
  const double low = fields.Number("low_freq_factor", 0, kMaxFactor);
  const double high = fields.Number("high_freq_factor", 0, kMaxFactor);
  const double original = fields.Int("original_max_position_embeddings", 1, kMaxPositions);
  if (high <= low) {
    fields.Fail("high_freq_factor", absl::StrCat("must be over low_freq_factor (", low, "), is ", high));
  }
  if (!fields.status().ok()) return;

  for (float& f : rope.inv_freq) {
    // Divisions of a scalar by a tensor are reciprocal times scalar in torch.
    const float wavelength = (1.0f / f) * static_cast<float>(kTwoPi);
    const bool is_long = wavelength > static_cast<float>(original / low);
    const bool is_short = wavelength < static_cast<float>(original / high);
    const float smooth =
        ((1.0f / wavelength) * static_cast<float>(original) - static_cast<float>(low)) / static_cast<float>(high - low);
    if (is_long) {
      f /= static_cast<float>(factor);
    } else if (!is_short) {
      f = (1.0f - smooth) * f / static_cast<float>(factor) + smooth * f;
    }
  }
  text["factor"] = factor;
  text["low_freq_factor"] = low;
  text["high_freq_factor"] = high;
  text["original_max_position_embeddings"] = original;
}

double YarnMagnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// YaRN (arXiv 2309.00071): pairs that turn less than beta_slow times in the original context are interpolated, those
// that turn more than beta_fast times are kept, with a ramp between.
void ApplyYarn(ConfigFields& fields, int32_t head_dim, int32_t max_position_embeddings, Rope& rope, json& text) {
  const double factor = fields.Number("factor", 1, kMaxFactor, absl::nullopt, /*min_allowed=*/true);
  const int32_t original = fields.Int("original_max_position_embeddings", 1, kMaxPositions, max_position_embeddings);
  const double beta_fast = fields.Number("beta_fast", 0, kMaxFactor, 32.0);
  const double beta_slow = fields.Number("beta_slow", 0, kMaxFactor, 1.0);
  const double mscale = fields.Number("mscale", 0, kMaxFactor, 0.0, /*min_allowed=*/true);
  const double mscale_all_dim = fields.Number("mscale_all_dim", 0, kMaxFactor, 0.0, /*min_allowed=*/true);
  const double magnitude = mscale > 0 && mscale_all_dim > 0
                               ? YarnMagnitude(factor, mscale) / YarnMagnitude(factor, mscale_all_dim)
                               : YarnMagnitude(factor, 1);
  const double attention_factor = fields.Number("attention_factor", 0, kMaxFactor, magnitude);
  const bool truncate = fields.Bool("truncate", true);
  if (beta_fast < beta_slow) {
    fields.Fail("beta_fast", absl::StrCat("must be at least beta_slow (", beta_slow, "), is ", beta_fast));
  }
  if (factor * original > kMaxPositions) {
    fields.Fail("factor", absl::StrCat("times original_max_position_embeddings (", original, ") must be at most ",
                                       kMaxPositions, ", is ", factor * original));
  }
  if (!fields.status().ok()) return;

  const auto correction_dim = [&](double rotations) {
    return head_dim * std::log(original / (rotations * kTwoPi)) / (2 * std::log(rope.theta));
  };
  double low = correction_dim(beta_fast);
  double high = correction_dim(beta_slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;

  const std::vector<float> frequencies = PositionFrequencies(rope.theta, head_dim);
  for (int i = 0; i < head_dim / 2; ++i) {
    const float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float keep = 1.0f - ramp;
    const float interpolated = 1.0f / (static_cast<float>(factor) * frequencies[i]);
    rope.inv_freq[i] = interpolated * (1.0f - keep) + (1.0f / frequencies[i]) * keep;
  }
  rope.scale = static_cast<float>(attention_factor);
  rope.max_context_tokens = static_cast<int32_t>(factor * original);
  text["factor"] = factor;
  text["original_max_position_embeddings"] = static_cast<double>(original);
  text["beta_fast"] = beta_fast;
  text["beta_slow"] = beta_slow;
  text["attention_factor"] = attention_factor;
  text["truncate"] = truncate;
}

absl::Status ApplyScaling(const json& scaling, const char* field, int32_t head_dim, int32_t max_position_embeddings,
                          Rope& rope) {
  ConfigFields fields(scaling, absl::StrCat(field, "."));
  // "type" is the older name.
  const char* name = fields.Has("type") && !fields.Has("rope_type") ? "type" : "rope_type";
  // rope_parameters always exists in newer checkpoints; rope_scaling exists to name a type.
  const bool may_lack_type = std::string(field) == "rope_parameters";
  const std::string type = may_lack_type ? fields.String(name, "default") : fields.String(name);
  if (fields.Has("type") && fields.String("type") != type) {
    fields.Fail("type", absl::StrCat("is \"", fields.String("type"), "\", but rope_type is \"", type, "\""));
  }
  if (!fields.status().ok()) return fields.status();
  json text = {{"rope_type", type}};
  if (type == "linear") {
    ApplyLinear(fields, rope, text);
  } else if (type == "llama3") {
    ApplyLlama3(fields, rope, text);
  } else if (type == "yarn") {
    ApplyYarn(fields, head_dim, max_position_embeddings, rope, text);
  } else if (type != "default") {
    fields.Fail(name, absl::StrCat(Shown(type), " is not supported (default, linear, llama3, yarn)"));
  }
  if (fields.status().ok() && type != "default") rope.scaling_json = text.dump();
  return fields.status();
}

}  // namespace

absl::StatusOr<Rope> ReadRope(const json& config, int32_t head_dim, int32_t max_position_embeddings) {
  ConfigFields top(config, "");
  if (top.Has("rope_scaling") && top.Has("rope_parameters")) {
    top.Fail("rope_parameters", "is set beside rope_scaling; a config holds one of them");
  }
  const char* field = top.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const bool has_scaling = top.Has(field);
  const json scaling = has_scaling ? config[field] : json::object();
  if (!scaling.is_object()) top.Fail(field, absl::StrCat("must be an object or null, is ", Shown(scaling)));
  if (!top.status().ok()) return top.status();

  ConfigFields inner(scaling, absl::StrCat(field, "."));
  Rope rope;
  const double top_theta = top.Number("rope_theta", 1, 1e15, 10000.0);
  rope.theta = inner.Number("rope_theta", 1, 1e15, top_theta);
  for (ConfigFields* fields : {&top, &inner}) {
    const double partial = fields->Number("partial_rotary_factor", 0, 1, 1.0);
    if (partial != 1) fields->Fail("partial_rotary_factor", absl::StrCat(partial, " is not supported (1 only)"));
    if (!fields->status().ok()) return fields->status();
  }

  for (const auto& [name, value] : scaling.items()) {
    if (!value.is_object()) continue;
    inner.Fail(name, "is an object: RoPE parameters per layer type are not supported");
    return inner.status();
  }

  rope.max_context_tokens = max_position_embeddings;
  rope.inv_freq = PositionFrequencies(rope.theta, head_dim);
  for (float& f : rope.inv_freq) f = 1.0f / f;
  if (has_scaling) {
    if (absl::Status s = ApplyScaling(scaling, field, head_dim, max_position_embeddings, rope); !s.ok()) return s;
  }
  return rope;
}

}  // namespace spotlight::engine
