#include "training/hash_layout.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/layout.h"

namespace spotlight::training {
namespace {

constexpr int64_t kAlignedFloats = 32;
constexpr int32_t kMaxHidden = 4096;         // of kernels/encode_and_append.h
constexpr int32_t kMinSequenceTokens = 256;  // a second half with queries that have tokens to choose from
constexpr double kSmallInitialStd = 1e-3;    // the MLP begins as a small addition to the rotation

absl::Status OutOfBounds(absl::string_view field, double value, absl::string_view bound) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be ", bound));
}

absl::Status ValidateHidden(absl::string_view field, int32_t hidden) {
  if (hidden >= 16 && hidden <= kMaxHidden && hidden % 16 == 0) return absl::OkStatus();
  return OutOfBounds(field, hidden, absl::StrCat("a multiple of 16 in [16, ", kMaxHidden, "]"));
}

absl::Status ValidateSchedule(const Recipe& recipe) {
  if (recipe.steps < 1) return OutOfBounds("recipe.steps", recipe.steps, "at least 1");
  if (recipe.tokens_per_sequence < kMinSequenceTokens) {
    return OutOfBounds("recipe.tokens_per_sequence", recipe.tokens_per_sequence,
                       absl::StrCat("at least ", kMinSequenceTokens));
  }
  if (recipe.queries_per_step < 1) return OutOfBounds("recipe.queries_per_step", recipe.queries_per_step, "at least 1");
  if (recipe.target_context < 0) return OutOfBounds("recipe.target_context", recipe.target_context, "at least 0");
  if (!(recipe.learning_rate > 0)) return OutOfBounds("recipe.learning_rate", recipe.learning_rate, "above 0");
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  if (!share(recipe.final_learning_rate_ratio)) {
    return OutOfBounds("recipe.final_learning_rate_ratio", recipe.final_learning_rate_ratio, "in [0, 1]");
  }
  if (!share(recipe.warmup_ratio)) return OutOfBounds("recipe.warmup_ratio", recipe.warmup_ratio, "in [0, 1]");
  if (!share(recipe.beta1) || recipe.beta1 == 1) return OutOfBounds("recipe.beta1", recipe.beta1, "in [0, 1)");
  if (!share(recipe.beta2) || recipe.beta2 == 1) return OutOfBounds("recipe.beta2", recipe.beta2, "in [0, 1)");
  if (!(recipe.weight_decay >= 0)) return OutOfBounds("recipe.weight_decay", recipe.weight_decay, "at least 0");
  if (!(recipe.gradient_clip > 0)) return OutOfBounds("recipe.gradient_clip", recipe.gradient_clip, "above 0");
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRecipe(const Recipe& recipe) {
  const int32_t bits = recipe.hash_bits;
  if (bits != 32 && bits != 64 && bits != 128 && bits != 256) {
    return OutOfBounds("recipe.hash_bits", bits, "32, 64, 128 or 256");
  }
  if (recipe.prefix_bits < 0 || recipe.prefix_bits > bits || recipe.prefix_bits % 32 != 0) {
    return OutOfBounds("recipe.prefix_bits", recipe.prefix_bits, absl::StrCat("a multiple of 32 in [0, ", bits, "]"));
  }
  if (!(recipe.prefix_weight >= 0)) return OutOfBounds("recipe.prefix_weight", recipe.prefix_weight, "at least 0");
  if (recipe.num_planes < 1 || recipe.num_planes > kernels::kMaxPlanes) {
    return OutOfBounds("recipe.num_planes", recipe.num_planes, absl::StrCat("in [1, ", kernels::kMaxPlanes, "]"));
  }
  if (recipe.encoder == EncoderKind::kZ) {
    if (absl::Status status = ValidateHidden("recipe.key_hidden", recipe.key_hidden); !status.ok()) return status;
    if (absl::Status status = ValidateHidden("recipe.query_hidden", recipe.query_hidden); !status.ok()) return status;
  }
  if (recipe.encoder == EncoderKind::kPaper && recipe.query != QueryForm::kBits) {
    return absl::InvalidArgumentError("recipe.query is real; the paper's encoder compares bits with bits");
  }
  if (recipe.first_layer < 0) return OutOfBounds("recipe.first_layer", recipe.first_layer, "at least 0");
  return ValidateSchedule(recipe);
}

absl::Status ValidateShape(const HashShape& shape) {
  if (shape.num_layers < 1) return OutOfBounds("the number of hashed layers", shape.num_layers, "at least 1");
  if (shape.num_kv_heads < 1) return OutOfBounds("the number of KV heads", shape.num_kv_heads, "at least 1");
  if (shape.num_q_heads < 1 || shape.num_q_heads % shape.num_kv_heads != 0) {
    return OutOfBounds("the number of query heads", shape.num_q_heads,
                       absl::StrCat("a multiple of ", shape.num_kv_heads, " KV heads"));
  }
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0) return OutOfBounds("the head size", shape.head_dim, "even");
  if (shape.inv_freq.size() * 2 != static_cast<size_t>(shape.head_dim)) {
    return OutOfBounds("the number of RoPE frequencies", static_cast<double>(shape.inv_freq.size()),
                       absl::StrCat("half the head size, ", shape.head_dim / 2));
  }
  return absl::OkStatus();
}

HashLayout::HashLayout(const Recipe& recipe, const HashShape& shape) {
  const int64_t dim = shape.head_dim, bits = recipe.hash_bits, heads = shape.num_q_heads / shape.num_kv_heads;
  num_kv_heads = int64_t{shape.num_layers} * shape.num_kv_heads;
  units_per_kv_head = recipe.per_query_head ? heads : 1;
  group = recipe.per_query_head ? 1 : heads;
  query_width = recipe.query == QueryForm::kReal ? group * dim : dim;

  const auto add = [this](const std::string& name, int64_t rows, int64_t columns) {
    slots.push_back({name, row, rows, columns});
    row += rows * columns;
  };
  const auto add_encoder = [&](const std::string& side, int64_t width, int64_t hidden) {
    if (recipe.encoder != EncoderKind::kLinear) {
      add(side + ".w1", width, hidden);
      add(side + ".b1", 1, hidden);
      add(side + ".w2", hidden, bits);
    }
    add(side + ".b2", 1, bits);
    if (recipe.encoder != EncoderKind::kPaper) add(side + ".skip", width, bits);
  };
  const bool z = recipe.encoder == EncoderKind::kZ;
  add_encoder("key", dim, z ? recipe.key_hidden : dim);
  const bool shared = recipe.encoder == EncoderKind::kLinear && recipe.query == QueryForm::kBits;
  if (!shared) add_encoder("query", query_width, z ? recipe.query_hidden : query_width);
  add("log_scale", 1, 1);
  row = (row + kAlignedFloats - 1) / kAlignedFloats * kAlignedFloats;
}

std::map<std::string, at::Tensor> ViewsOf(const HashLayout& layout, const at::Tensor& flat) {
  std::map<std::string, at::Tensor> views;
  for (const HashLayout::Slot& slot : layout.slots) {
    views[slot.name] = flat.narrow(1, slot.offset, slot.rows * slot.columns).unflatten(1, {slot.rows, slot.columns});
  }
  return views;
}

at::Tensor RandomRotations(uint64_t seed, int64_t head_dim, int64_t hash_bits) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<at::Tensor> columns;
  for (int64_t count = 0; count < hash_bits; count += head_dim) {
    columns.push_back(std::get<0>(at::linalg_qr(at::randn({head_dim, head_dim}, generator, at::kFloat))));
  }
  return at::cat(columns, 1).narrow(1, 0, hash_bits).contiguous();
}

at::Tensor InitialParameters(const Recipe& recipe, const HashLayout& layout, const at::Tensor& rotations) {
  at::Generator generator = at::detail::createCPUGenerator(recipe.seed + 1);
  at::Tensor flat = at::zeros({layout.num_units(), layout.row}, at::kFloat);
  for (auto& [name, view] : ViewsOf(layout, flat)) {
    const bool first = name == "key.w1" || name == "query.w1", second = name == "key.w2" || name == "query.w2";
    if (first || second) {
      const bool wide = first && recipe.encoder == EncoderKind::kZ;
      const double deviation = wide ? 1 / std::sqrt(static_cast<double>(view.size(1))) : kSmallInitialStd;
      view.copy_(at::randn(view.sizes(), generator, at::kFloat).mul_(deviation));
    } else if (name == "key.skip" || name == "query.skip") {
      view.copy_(rotations.repeat({view.size(1) / rotations.size(0), 1}));
    }
  }
  return flat;
}

}  // namespace spotlight::training
