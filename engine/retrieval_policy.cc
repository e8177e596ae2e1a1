#include "engine/retrieval_policy.h"

#include "absl/strings/str_cat.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

absl::StatusOr<kernels::DType> ParseDType(const std::string& name) {
  if (name == "fp32") return kernels::DType::kF32;
  if (name == "bf16") return kernels::DType::kBF16;
  if (name == "fp16") return kernels::DType::kF16;
  return absl::InvalidArgumentError(absl::StrCat("model dtype: must be fp32, bf16 or fp16, got \"", name, "\""));
}

}  // namespace

absl::StatusOr<RetrievalPolicy> RetrievalPolicy::Create(const RetrievalOptions& options, const ModelInfo& model) {
  const absl::StatusOr<kernels::DType> dtype = ParseDType(model.dtype);
  if (!dtype.ok()) return dtype.status();
  const kernels::Budget& budget = options.budget;
  if (!(budget.ratio > 0 && budget.ratio <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("budget ratio: must be in (0, 1], got ", budget.ratio));
  }
  if (budget.min_tokens < 1 || budget.sink_tokens < 0 || budget.recent_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("budget: min_tokens and recent_tokens must be at least 1, sink_tokens 0, got ", budget.min_tokens,
                     ", ", budget.recent_tokens, ", ", budget.sink_tokens));
  }
  if (options.sparse_min_context < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sparse_min_context: must be at least 0, got ", options.sparse_min_context));
  }
  RetrievalPolicy policy;
  policy.options_ = options;
  policy.has_hash_ = model.hash.present && !model.hash.layers.empty();
  policy.trained_ = model.hash.trained;
  policy.num_hashed_layers_ = policy.has_hash_ ? static_cast<int64_t>(model.hash.layers.size()) : 0;
  policy.num_dense_layers_ = model.num_layers - policy.num_hashed_layers_;
  policy.kv_bytes_per_token_ = static_cast<int64_t>(
      model.kv_cache_dtype == "fp8" ? kernels::E4m3KvBytesPerToken(model.num_kv_heads, model.head_dim)
                                    : kernels::KvBytesPerToken(model.num_kv_heads, model.head_dim, *dtype));
  policy.code_bytes_per_token_ = int64_t{model.num_kv_heads} * (model.hash.hash_bits / 8);
  return policy;
}

absl::Status RetrievalPolicy::Check(const RetrievalParams& params) const {
  if (has_hash_ || params.mode == RetrievalMode::kDense) return absl::OkStatus();
  if (params.mode == RetrievalMode::kSparse) {
    return absl::FailedPreconditionError("retrieval.mode: SPARSE needs a hash, and the served model has none");
  }
  if (options_.sparse_required) {
    return absl::FailedPreconditionError(
        "retrieval.mode: this server requires sparse retrieval, and the served model has no hash");
  }
  return absl::OkStatus();
}

RetrievalDecision RetrievalPolicy::Decide(const RetrievalParams& params, const RetrievalFallback& fallback,
                                          int32_t context_len) const {
  if (params.mode == RetrievalMode::kDense) return {0, DenseReason::kRequestOverride};
  if (!has_hash_) return {0, DenseReason::kNoHash};
  if (fallback.dense) return {0, DenseReason::kGuardrail};
  if (params.mode == RetrievalMode::kAuto && context_len < options_.sparse_min_context) {
    return {0, DenseReason::kShortContext};
  }
  kernels::Budget budget = options_.budget;
  budget.ratio = params.budget_ratio.value_or(budget.ratio);
  budget.min_tokens = params.min_tokens.value_or(budget.min_tokens);
  budget.sink_tokens = params.sink_tokens.value_or(budget.sink_tokens);
  budget.recent_tokens = params.recent_tokens.value_or(budget.recent_tokens);
  if (fallback.count > 0) budget.ratio = fallback.budget_ratio;
  const int32_t num_select = kernels::NumSelected(budget, context_len);
  if (num_select == 0) return {0, DenseReason::kShortContext};
  const bool own_ends =
      budget.sink_tokens != options_.budget.sink_tokens || budget.recent_tokens != options_.budget.recent_tokens;
  return {num_select, DenseReason::kNone, budget.sink_tokens, budget.recent_tokens, own_ends};
}

KvTraffic RetrievalPolicy::Traffic(const RetrievalDecision& decision, int32_t context_len) const {
  const int64_t dense_layer = context_len * kv_bytes_per_token_;
  KvTraffic traffic;
  traffic.dense_equivalent_bytes = (num_dense_layers_ + num_hashed_layers_) * dense_layer;
  if (decision.num_select == 0) {
    traffic.read_bytes = traffic.dense_equivalent_bytes;
    return traffic;
  }
  const int64_t sparse_layer =
      decision.NumCandidates(context_len) * code_bytes_per_token_ + decision.NumAttended() * kv_bytes_per_token_;
  traffic.read_bytes = num_dense_layers_ * dense_layer + num_hashed_layers_ * sparse_layer;
  return traffic;
}

}  // namespace spotlight::engine
