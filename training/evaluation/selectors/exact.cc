#include "training/evaluation/selectors/exact.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include <string>

namespace spotlight::training {
namespace {

// A selector whose scores [Hkv, G or 1, N, T] are a function of the query set.
template <typename Score>
class ScoreSelector : public Selector {
 public:
  ScoreSelector(std::string name, Score score) : name_(std::move(name)), score_(std::move(score)) {}
  const std::string& name() const override { return name_; }
  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    return Selection{TopCandidates(score_(queries), queries.candidates, queries.num_select), {}};
  }

 private:
  const std::string name_;
  const Score score_;
};

template <typename Score>
std::unique_ptr<Selector> Make(std::string name, Score score) {
  return std::make_unique<ScoreSelector<Score>>(std::move(name), std::move(score));
}

// Bijective on 32 bits, in int64 whose products do not overflow: 31-bit constants, a 32-bit state.
at::Tensor Mix(at::Tensor x) {
  constexpr int64_t kLow32 = 0xffffffff;
  x = x.bitwise_and(kLow32);
  x = x.bitwise_xor(x.bitwise_right_shift(16)).mul(0x7feb352d).bitwise_and_(kLow32);
  x = x.bitwise_xor(x.bitwise_right_shift(15)).mul(0x3ad8025f).bitwise_and_(kLow32);
  return x.bitwise_xor(x.bitwise_right_shift(16));
}

}  // namespace

std::unique_ptr<Selector> MakeOracleA() {
  return Make("oracle-a", [](const QuerySet& queries) { return queries.logits; });
}

std::unique_ptr<Selector> MakeOracleB() {
  return Make("oracle-b", [](const QuerySet& queries) { return queries.probs.sum(1, /*keepdim=*/true); });
}

std::unique_ptr<Selector> MakeWindow() {
  return Make("window", [](const QuerySet& queries) {
    const int64_t kv_heads = queries.k.size(0), tokens = queries.k.size(1), num_queries = queries.positions.size(0);
    return at::arange(tokens, queries.logits.options()).expand({kv_heads, 1, num_queries, tokens});
  });
}

std::unique_ptr<Selector> MakeRandom(uint64_t seed) {
  return Make("random", [seed](const QuerySet& queries) {
    const auto options = queries.positions.options();
    const at::Tensor head = at::arange(queries.k.size(0), options).view({-1, 1, 1, 1});
    const at::Tensor token = at::arange(queries.k.size(1), options);
    const auto stream = static_cast<int64_t>((seed * 1000003 + queries.layer) & 0xffffffff);
    const at::Tensor rows = Mix(Mix(Mix(head + stream) + queries.positions.unsqueeze(-1)));
    // 24 bits: what a float holds exactly.
    return Mix(Mix(rows + token)).bitwise_right_shift(8).to(at::kFloat);
  });
}

}  // namespace spotlight::training
