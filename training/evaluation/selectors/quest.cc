#include "training/evaluation/selectors/quest.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>

#include <limits>
#include <string>
#include <utility>

#include "training/evaluation/selectors/key_cache.h"

namespace spotlight::training {
namespace {

constexpr int64_t kPageTokens = 16;

// By page and dimension [Hkv, pages, D] float.
struct PageBounds {
  at::Tensor lowest, highest;
};

// Tokens past the end count for neither bound.
at::Tensor Pages(const at::Tensor& keys, float fill) {
  const int64_t kv_heads = keys.size(0), tokens = keys.size(1), head_dim = keys.size(2);
  const int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
  return at::constant_pad_nd(keys.to(at::kFloat), {0, 0, 0, pages * kPageTokens - tokens}, fill)
      .view({kv_heads, pages, kPageTokens, head_dim});
}

PageBounds BoundsOf(const at::Tensor& keys) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return {Pages(keys, kInfinity).amin(2), Pages(keys, -kInfinity).amax(2)};
}

class QuestSelector : public Selector {
 public:
  QuestSelector(std::string name, bool by_group) : name_(std::move(name)), by_group_(by_group) {}
  const std::string& name() const override { return name_; }

  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    const PageBounds& bounds = bounds_.Get(queries, BoundsOf);
    const int64_t kv_heads = queries.q.size(0), group = queries.q.size(1), num_queries = queries.q.size(2);
    const int64_t tokens = queries.k.size(1), pages = (tokens + kPageTokens - 1) / kPageTokens;
    const at::Tensor q = queries.q.to(at::kFloat).reshape({kv_heads, group * num_queries, -1});
    const auto times = [&](const at::Tensor& part, const at::Tensor& bound) {
      return at::matmul(part, bound.narrow(1, 0, pages).transpose(1, 2));
    };
    at::Tensor score = (times(q.clamp_min(0), bounds.highest) + times(q.clamp_max(0), bounds.lowest))
                           .view({kv_heads, group, num_queries, pages});
    if (by_group_) score = score.sum(1, /*keepdim=*/true);
    // Tokens of equal score are taken in their order: pages whole, the last of them cut to the budget.
    const at::Tensor by_token = score.repeat_interleave(kPageTokens, -1).narrow(-1, 0, tokens);
    return Selection{TopCandidates(by_token, queries.candidates, queries.num_select), {}};
  }

 private:
  const std::string name_;
  const bool by_group_;
  KeyCache<PageBounds> bounds_;
};

}  // namespace

std::unique_ptr<Selector> MakeQuest() {
  return std::make_unique<QuestSelector>("quest", /*by_group=*/false);
}

std::unique_ptr<Selector> MakeQuestByGroup() {
  return std::make_unique<QuestSelector>("quest-group", /*by_group=*/true);
}

}  // namespace spotlight::training
