#include "training/evaluation/selectors/lsh.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>

#include <string>
#include <utility>

#include "training/evaluation/selectors/key_cache.h"
#include "training/evaluation/selectors/rotation.h"

namespace spotlight::training {
namespace {

at::Tensor Signs(const at::Tensor& x) {
  return (x >= 0).to(at::kFloat).mul_(2).sub_(1);
}

class LshSelector : public Selector {
 public:
  LshSelector(std::string name, bool by_head, int32_t bits, uint64_t seed)
      : name_(std::move(name)), by_head_(by_head), bits_(bits), seed_(seed) {}
  const std::string& name() const override { return name_; }

  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    if (!rotations_.defined()) rotations_ = LshRotations(queries.k.size(2), bits_, seed_).to(queries.k.device());
    const at::Tensor& codes = codes_.Get(queries, [&](const at::Tensor& keys) {
      return Signs(at::matmul(keys.to(at::kFloat) - CentreOf(keys), rotations_));
    });
    at::Tensor query = Signs(at::matmul(queries.q.to(at::kFloat), rotations_));  // [Hkv, G, N, bits]
    if (!by_head_) query = query.sum(1, /*keepdim=*/true);
    const int64_t kv_heads = query.size(0), heads = query.size(1), num_queries = query.size(2);
    // Sums of +-1 are exact: tokens tie as their bits say.
    const at::Tensor keys = codes.narrow(1, 0, queries.k.size(1));
    const at::Tensor score = at::matmul(query.view({kv_heads, heads * num_queries, bits_}), keys.transpose(1, 2));
    return Selection{
        TopCandidates(score.view({kv_heads, heads, num_queries, -1}), queries.candidates, queries.num_select), {}};
  }

 private:
  const std::string name_;
  const bool by_head_;
  const int32_t bits_;
  const uint64_t seed_;
  at::Tensor rotations_;        // [D, bits]
  KeyCache<at::Tensor> codes_;  // [Hkv, T, bits] +-1
};

}  // namespace

std::unique_ptr<Selector> MakeLsh(int32_t bits, uint64_t seed) {
  return std::make_unique<LshSelector>("lsh", /*by_head=*/false, bits, seed);
}

std::unique_ptr<Selector> MakeLshByHead(int32_t bits, uint64_t seed) {
  return std::make_unique<LshSelector>("lsh-head", /*by_head=*/true, bits, seed);
}

}  // namespace spotlight::training
