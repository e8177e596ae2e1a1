#include "training/evaluation/selectors/hash.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "training/evaluation/selectors/key_cache.h"
#include "training/plane_quantiser.h"

namespace spotlight::training {
namespace {

constexpr int64_t kPrefixBits = 32;
// kAdaptive's bounds, in budgets.
constexpr int64_t kLeastDivisor = 8, kMostFactor = 5;

// NaN counts as a bit that is not set.
at::Tensor Signs(const at::Tensor& h) {
  return (h >= 0).to(at::kFloat).mul_(2).sub_(1);
}

class HashSelector : public Selector {
 public:
  HashSelector(std::shared_ptr<const EvaluatedHash> hash, const HashSelectorOptions& options)
      : hash_(std::move(hash)), options_(options) {}
  const std::string& name() const override { return options_.name; }

  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    const auto layer = hash_->layers.find(queries.layer);
    if (layer == hash_->layers.end()) {
      return absl::InvalidArgumentError(absl::StrCat(hash_->path, ": has no hash for layer ", queries.layer));
    }
    const at::Tensor& codes = codes_.Get(queries, [&](const at::Tensor& keys) {
      const at::Tensor k = hash_->by_query_head ? keys.repeat_interleave(queries.q.size(1), 0) : keys;
      return Signs(Encode(layer->second.key, k.to(at::kFloat)));
    });
    const at::Tensor bits = codes.narrow(1, 0, queries.k.size(1));
    const at::Tensor real = RealWeights(queries, layer->second.query);
    PlaneWeights planes;
    if (real.defined()) {
      planes = QuantiseToPlanes(real, hash_->metadata.num_planes, hash_->metadata.plane_step);
      if (options_.scoring == HashScoring::kReal) planes.levels = real;
    } else {
      planes.levels = BitWeights(queries, layer->second.query);
    }
    const at::Tensor& weights = planes.levels;
    at::Tensor candidates = queries.candidates;
    if (options_.scoring == HashScoring::kPrefilter) {
      const at::Tensor prefix = Score(queries, weights.narrow(-1, 0, kPrefixBits), bits.narrow(-1, 0, kPrefixBits));
      candidates = TopCandidates(prefix, candidates, queries.num_select * options_.prefilter_factor);
    }
    const at::Tensor score = Score(queries, weights, bits);
    at::Tensor num_select = queries.num_select;
    if (options_.scoring == HashScoring::kAdaptive) {
      // kernels/encode_and_append.h: an estimated logit is logit_scale * plane_unit / 2 times the score.
      const at::Tensor unit = planes.unit / 2 * layer->second.logit_scale;
      num_select = TokensForShare(score * unit.view({score.size(0), score.size(1), score.size(2), 1}), candidates,
                                  options_.adaptive_share, (num_select / kLeastDivisor).to(at::kLong).clamp_min(1),
                                  num_select * kMostFactor);
    }
    return Selection{TopCandidates(score, candidates, num_select), {}};
  }

 private:
  // One real weight for each bit [U, N, bits]; undefined for files that compare bits with bits.
  at::Tensor RealWeights(const QuerySet& queries, const HashEncoder& encoder) const {
    if (hash_->symmetric) return at::Tensor();
    const at::Tensor q = queries.q.to(at::kFloat);
    const int64_t kv_heads = q.size(0), group = q.size(1), num_queries = q.size(2), head_dim = q.size(3);
    if (hash_->by_query_head) return Encode(encoder, q.reshape({kv_heads * group, num_queries, head_dim}));
    return Encode(encoder, q.transpose(1, 2).reshape({kv_heads, num_queries, group * head_dim}));
  }

  // The queries' own bits, +-1, summed over the group where it shares a code [U, N, bits].
  at::Tensor BitWeights(const QuerySet& queries, const HashEncoder& encoder) const {
    const at::Tensor q = queries.q.to(at::kFloat);
    const int64_t kv_heads = q.size(0), group = q.size(1), num_queries = q.size(2), head_dim = q.size(3);
    if (hash_->by_query_head) return Signs(Encode(encoder, q.reshape({kv_heads * group, num_queries, head_dim})));
    const at::Tensor w = Encode(encoder, q.reshape({kv_heads, group * num_queries, head_dim}));
    return Signs(w).view({kv_heads, group, num_queries, -1}).sum(1);
  }

  // [Hkv, G or 1, N, T]. Sums of small integers are exact in fp32, so tokens tie as they do in the kernels.
  static at::Tensor Score(const QuerySet& queries, const at::Tensor& weights, const at::Tensor& bits) {
    const at::Tensor score = at::bmm(weights, bits.transpose(1, 2));
    return score.view({queries.q.size(0), -1, score.size(1), score.size(2)});
  }

  const std::shared_ptr<const EvaluatedHash> hash_;
  const HashSelectorOptions options_;
  KeyCache<at::Tensor> codes_;  // [U, T, bits] +-1
};

}  // namespace

absl::StatusOr<std::unique_ptr<Selector>> MakeHashSelector(std::shared_ptr<const EvaluatedHash> hash,
                                                           const HashSelectorOptions& options) {
  const bool real_queries = options.scoring == HashScoring::kReal || options.scoring == HashScoring::kAdaptive;
  if (real_queries && hash->symmetric) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.name, ": ", hash->path, " compares bits with bits, it has no real-valued queries"));
  }
  return std::unique_ptr<Selector>(std::make_unique<HashSelector>(std::move(hash), options));
}

at::Tensor TokensForShare(const at::Tensor& logits, const at::Tensor& candidates, double share, const at::Tensor& least,
                          const at::Tensor& most) {
  const at::Tensor competing = logits.masked_fill(~candidates, -std::numeric_limits<float>::infinity());
  const at::Tensor best_first = std::get<0>(at::softmax(competing, -1).sort(-1, /*descending=*/true));
  const at::Tensor before = best_first.cumsum(-1) - best_first;
  // A row without candidates has no softmax: nothing is before anything in it.
  const at::Tensor count = at::minimum(at::maximum((before < share).sum(-1), least), most);
  return at::minimum(count, candidates.sum(-1));
}

}  // namespace spotlight::training
