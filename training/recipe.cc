#include "training/recipe.h"

#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

const char* Name(EncoderKind kind) {
  switch (kind) {
    case EncoderKind::kZ:
      return "z";
    case EncoderKind::kLinear:
      return "linear";
    case EncoderKind::kPaper:
      return "paper";
  }
  return "";
}

const char* Name(Loss loss) {
  switch (loss) {
    case Loss::kCrossEntropy:
      return "ce";
    case Loss::kBradleyTerry:
      return "bt";
    case Loss::kSoftTopK:
      return "soft-topk";
  }
  return "";
}

}  // namespace

std::string FormatRecipe(const Recipe& recipe) {
  return absl::StrCat(
      "encoder=", Name(recipe.encoder), " loss=", Name(recipe.loss),
      " query=", recipe.query == QueryForm::kReal ? "real" : "bits", " per_query_head=", recipe.per_query_head,
      " bits=", recipe.hash_bits, " planes=", recipe.num_planes, " prefix_bits=", recipe.prefix_bits,
      " prefix_weight=", recipe.prefix_weight, " key_hidden=", recipe.key_hidden, " query_hidden=", recipe.query_hidden,
      " first_layer=", recipe.first_layer, " steps=", recipe.steps, " tokens_per_sequence=", recipe.tokens_per_sequence,
      " queries=", recipe.queries_per_step, " target_context=", recipe.target_context,
      " position_mix=", recipe.position_mix, " lr=", recipe.learning_rate,
      " final_lr_ratio=", recipe.final_learning_rate_ratio, " warmup=", recipe.warmup_ratio, " beta1=", recipe.beta1,
      " beta2=", recipe.beta2, " weight_decay=", recipe.weight_decay, " clip=", recipe.gradient_clip,
      " seed=", recipe.seed);
}

float PlaneStep(int32_t num_planes) {
  switch (num_planes) {
    case 1:
      return 1.6f;
    case 2:
      return 0.996f;
    case 3:
      return 0.586f;
    default:
      return 0.335f;
  }
}

}  // namespace spotlight::training
