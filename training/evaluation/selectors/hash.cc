#include "training/evaluation/selectors/hash.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/floor.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "training/evaluation/selectors/key_cache.h"

namespace spotlight::training {
namespace {

constexpr int64_t kPrefixBits = 32;
constexpr double kSmallestRms = 1e-6;

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
    const at::Tensor weights = Weights(queries, layer->second.query);
    at::Tensor candidates = queries.candidates;
    if (options_.scoring == HashScoring::kPrefilter) {
      const at::Tensor prefix = Score(queries, weights.narrow(-1, 0, kPrefixBits), bits.narrow(-1, 0, kPrefixBits));
      candidates = TopCandidates(prefix, candidates, queries.num_select * options_.prefilter_factor);
    }
    return Selection{TopCandidates(Score(queries, weights, bits), candidates, queries.num_select), {}};
  }

 private:
  // One weight for each bit [U, N, bits].
  at::Tensor Weights(const QuerySet& queries, const HashEncoder& encoder) const {
    const at::Tensor q = queries.q.to(at::kFloat);
    const int64_t kv_heads = q.size(0), group = q.size(1), num_queries = q.size(2), head_dim = q.size(3);
    if (hash_->by_query_head) {
      const at::Tensor w = Encode(encoder, q.reshape({kv_heads * group, num_queries, head_dim}));
      return hash_->symmetric ? Signs(w) : Quantise(w);
    }
    if (hash_->symmetric) {
      const at::Tensor w = Encode(encoder, q.reshape({kv_heads, group * num_queries, head_dim}));
      return Signs(w).view({kv_heads, group, num_queries, -1}).sum(1);
    }
    return Quantise(Encode(encoder, q.transpose(1, 2).reshape({kv_heads, num_queries, group * head_dim})));
  }

  at::Tensor Quantise(const at::Tensor& weights) const {
    if (options_.scoring == HashScoring::kReal) return weights;
    return QuantiseToPlanes(weights, hash_->metadata.num_planes, hash_->metadata.plane_step);
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
  if (options.scoring == HashScoring::kReal && hash->symmetric) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.name, ": ", hash->path, " compares bits with bits, it has no real-valued queries"));
  }
  return std::unique_ptr<Selector>(std::make_unique<HashSelector>(std::move(hash), options));
}

at::Tensor QuantiseToPlanes(const at::Tensor& weights, int32_t num_planes, double step) {
  const at::Tensor rms = weights.square().mean(-1, /*keepdim=*/true).sqrt().clamp_min(kSmallestRms);
  const auto most = static_cast<double>((1 << num_planes) - 1);
  return at::floor(weights / (rms * step)).mul_(2).add_(1).clamp_(-most, most);
}

}  // namespace spotlight::training
