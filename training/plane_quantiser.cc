#include "training/plane_quantiser.h"

#include <ATen/TensorOperators.h>

namespace spotlight::training {

PlaneWeights QuantiseToPlanes(const at::Tensor& w, int32_t num_planes, double step) {
  constexpr double kMinRms = 1e-6;
  const int64_t last = (int64_t{1} << num_planes) - 1;
  PlaneWeights planes;
  planes.unit = w.square().mean({-1}, /*keepdim=*/true).sqrt_().clamp_min_(kMinRms).mul_(step);
  planes.levels = (w / planes.unit).floor_().mul_(2).add_(1).clamp_(-last, last);
  return planes;
}

}  // namespace spotlight::training
