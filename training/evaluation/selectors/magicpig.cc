#include "training/evaluation/selectors/magicpig.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "training/evaluation/selectors/key_cache.h"
#include "training/evaluation/selectors/rotation.h"

namespace spotlight::training {
namespace {

constexpr double kPi = 3.14159265358979323846;
// Tables that are looked up before it is seen whether the sample is large enough.
constexpr int64_t kTablesAtOnce = 3;
// Tables whose buckets are computed together, when the first of them is looked up.
constexpr int64_t kTablesInBlock = 30;
// The bucket of a query that looks up no further tables.
constexpr int64_t kNoBucket = -1;

// What the keys give: buckets by table, and what angles are computed from.
struct KeyBuckets {
  at::Tensor centred;               // [Hkv, T, D] float
  std::vector<at::Tensor> buckets;  // blocks of [Hkv, tables, T] int16
  at::Tensor centre;                // [Hkv, 1, D] float
  at::Tensor norm;                  // [Hkv, T] float, of the centred keys
};

// x [..., n, D] float, directions [bits, tables, D] -> [..., tables, n] int16.
at::Tensor Buckets(const at::Tensor& x, const at::Tensor& directions) {
  at::Tensor buckets;
  for (int64_t bit = 0; bit < directions.size(0); ++bit) {
    const at::Tensor set = at::matmul(directions[bit], x.transpose(-1, -2)).ge(0).to(at::kShort);
    buckets = bit == 0 ? set : buckets.add_(set, 1 << bit);
  }
  return buckets;
}

class MagicPigSelector : public Selector {
 public:
  explicit MagicPigSelector(const MagicPigOptions& options) : options_(options) {}
  const std::string& name() const override { return name_; }

  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    const double share = (queries.num_select.to(at::kFloat) / (queries.positions + 1)).mean().item<double>();
    const bool wide = share > options_.wide_budget;
    const int64_t bits = wide ? options_.wide_bits : options_.bits;
    at::Tensor& directions = directions_[bits];
    if (!directions.defined()) {
      const int64_t head_dim = queries.k.size(2);
      directions = RandomDirections(bits * options_.max_tables, head_dim, options_.seed)
                       .to(queries.k.device())
                       .view({bits, options_.max_tables, head_dim});
    }
    KeyBuckets& keys = keys_[wide].Get(queries, [](const at::Tensor& k) {
      KeyBuckets result;
      result.centre = CentreOf(k);
      result.centred = k.to(at::kFloat) - result.centre;
      result.norm = at::linalg_vector_norm(result.centred, 2, {-1});
      return result;
    });
    at::Tensor tables;  // [Hkv, G, 1, 1] float
    Selection selection;
    selection.mask = Sample(queries, directions, &keys, &tables);
    selection.logit_offset = -LogProbability(queries, keys, bits, tables);
    return selection;
  }

 private:
  // Tokens with two collisions or more [Hkv, G, N, T]; `tables`: how many were looked up.
  at::Tensor Sample(const QuerySet& queries, const at::Tensor& directions, KeyBuckets* keys, at::Tensor* tables) const {
    const double wanted = queries.num_select.to(at::kFloat).mean().item<double>();
    at::Tensor collisions = at::zeros(queries.logits.sizes(), queries.logits.options().dtype(at::kByte));
    *tables = at::zeros({queries.q.size(0), queries.q.size(1), 1, 1}, queries.logits.options());
    at::Tensor active = at::ones_like(*tables, at::kBool), query_block;  // query_block [Hkv, G, tables, N]
    for (int64_t table = 0; table < options_.max_tables; ++table) {
      const int64_t block = table / kTablesInBlock, in_block = table % kTablesInBlock;
      if (in_block == 0) {
        const int64_t size = std::min(kTablesInBlock, options_.max_tables - table);
        const at::Tensor of_block = directions.narrow(1, table, size);
        if (static_cast<int64_t>(keys->buckets.size()) == block) {
          keys->buckets.push_back(Buckets(keys->centred, of_block));
        }
        query_block = Buckets(queries.q.to(at::kFloat), of_block).masked_fill_(~active, kNoBucket);
      }
      const at::Tensor key = keys->buckets[block].select(1, in_block).narrow(1, 0, queries.k.size(1));
      collisions += query_block.select(2, in_block).unsqueeze(-1) == key.unsqueeze(1).unsqueeze(1);
      if ((table + 1) % kTablesAtOnce != 0 && table + 1 != options_.max_tables) continue;
      tables->masked_fill_(active, static_cast<double>(table + 1));
      const at::Tensor sampled = (collisions >= 2).logical_and_(queries.candidates).sum(-1, /*keepdim=*/true);
      active = active & (sampled.to(at::kFloat).mean(2, /*keepdim=*/true) < wanted);
      query_block.masked_fill_(~active, kNoBucket);
      if (!active.any().item<bool>()) break;
    }
    return (collisions >= 2).logical_and_(queries.candidates);
  }

  at::Tensor LogProbability(const QuerySet& queries, const KeyBuckets& keys, int64_t bits,
                            const at::Tensor& tables) const {
    const at::Tensor q = queries.q.to(at::kFloat);
    const double scale = std::sqrt(static_cast<double>(q.size(-1)));
    // q . (k - centre) from the logits that are there.
    const at::Tensor offset = at::matmul(q, keys.centre.unsqueeze(1).transpose(-1, -2));  // [Hkv, G, N, 1]
    const at::Tensor norm = keys.norm.narrow(1, 0, queries.k.size(1)).unsqueeze(1).unsqueeze(1);
    const at::Tensor lengths = at::linalg_vector_norm(q, 2, {-1}, /*keepdim=*/true) * norm;
    const at::Tensor cosine = ((queries.logits * scale - offset) / lengths).clamp_(-1, 1);
    const at::Tensor p = (1 - cosine.acos() / kPi).pow(bits);
    const at::Tensor missed = (1 - p).pow(tables - 1);  // (1 - p)^(L - 1)
    const at::Tensor sampled = 1 - missed * (1 - p + tables * p);
    return sampled.clamp_min(1e-12).log();
  }

  const std::string name_ = "magicpig";
  const MagicPigOptions options_;
  std::map<int64_t, at::Tensor> directions_;   // by bits: [bits, L, D]
  std::map<bool, KeyCache<KeyBuckets>> keys_;  // by whether the tables are wide
};

}  // namespace

std::unique_ptr<Selector> MakeMagicPig(const MagicPigOptions& options) {
  return std::make_unique<MagicPigSelector>(options);
}

}  // namespace spotlight::training
