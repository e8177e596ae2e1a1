#include "training/centring_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "training/head_batches.h"
#include "training/unit_reader.h"

namespace spotlight::training {
namespace {

constexpr int64_t kQueriesPerSample = 128;
constexpr double kMinVariance = 1e-12;

// First and second moments of channels [h, D], in double: a channel's mean may be a hundred times its deviation.
class Moments {
 public:
  Moments(at::IntArrayRef channels, at::Device device)
      : sum_(at::zeros(channels, at::TensorOptions(at::kDouble).device(device))), squares_(at::zeros_like(sum_)) {}

  // Adds x [..., n, D], averaged over n, as one sample's, to entries [begin, begin + x.size(0)).
  void Add(const at::Tensor& x, int64_t begin) {
    const at::Tensor wide = x.to(at::kDouble);
    sum_.narrow(0, begin, x.size(0)).add_(wide.mean(-2));
    squares_.narrow(0, begin, x.size(0)).add_(wide.square().mean(-2));
  }

  at::Tensor Mean(double samples) const { return sum_ / samples; }
  at::Tensor Squares(double samples) const { return squares_ / samples; }

 private:
  at::Tensor sum_, squares_;
};

// [..., 1]: 1 / root mean variance of the channels.
at::Tensor Scale(const at::Tensor& mean, const at::Tensor& squares) {
  return (squares - mean.square()).mean({-1}, /*keepdim=*/true).clamp_min_(kMinVariance).rsqrt_();
}

}  // namespace

Centring MeasureCentring(const Recipe& recipe, const HashShape& shape, const HashLayout& layout,
                         const std::vector<Activations>& samples, at::Device device) {
  const int64_t heads = layout.num_kv_heads, group = layout.group * layout.units_per_kv_head, dim = shape.head_dim;
  Moments keys({heads, dim}, device), queries({heads, group, dim}, device);
  for (size_t i = 0; i < samples.size(); ++i) {
    const int64_t tokens = samples[i].k.size(2);
    StepRandom random(recipe.seed, Draw::kStatistics, static_cast<int32_t>(i));
    const std::vector<int64_t> positions =
        recipe.position_mix ? ScatteredPositions(tokens, shape.target_context, &random) : std::vector<int64_t>();
    const std::vector<int64_t> chosen = random.Ascending(std::min(tokens, kQueriesPerSample), 0, tokens);
    const PhaseShift shift(positions, shape.inv_freq, at::TensorOptions(at::kFloat).device(device));
    const UnitReader reader(layout, dim, samples[i], chosen, shift, device);
    // Keys in fp32, their halves turned, and in double twice.
    const int64_t head_bytes = 24 * (tokens + group * static_cast<int64_t>(chosen.size())) * dim;
    ForHeadBatches(heads, head_bytes, device.type(), [&](int64_t begin, int64_t num_heads) {
      const HeadBatch batch = reader.ReadHeads(begin, num_heads);
      keys.Add(batch.k, begin);
      queries.Add(batch.q, begin);
    });
  }

  const auto count = static_cast<double>(samples.size());
  // [U, G, D] of a unit's query heads.
  const auto of_units = [&](const at::Tensor& x) { return x.view({layout.num_units(), layout.group, dim}); };
  at::Tensor query_mean = of_units(queries.Mean(count)), query_squares = of_units(queries.Squares(count));
  if (recipe.query == QueryForm::kBits) {
    query_mean = query_mean.mean({1}, /*keepdim=*/true);
    query_squares = query_squares.mean({1}, /*keepdim=*/true);
  }
  const at::Tensor query_scale = Scale(query_mean, query_squares).expand_as(query_mean);
  const auto key_of_units = [&](const at::Tensor& x) {
    return x.repeat_interleave(layout.units_per_kv_head, 0).unsqueeze(1).to(at::kFloat);
  };
  Centring centring;
  centring.key_mean = key_of_units(keys.Mean(count));
  centring.key_scale = key_of_units(Scale(keys.Mean(count), keys.Squares(count)));
  centring.query_mean = query_mean.flatten(1).unsqueeze(1).to(at::kFloat);
  centring.query_scale = query_scale.reshape({layout.num_units(), 1, -1}).to(at::kFloat);
  return centring;
}

}  // namespace spotlight::training
