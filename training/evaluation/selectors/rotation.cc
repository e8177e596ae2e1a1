#include "training/evaluation/selectors/rotation.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/randn.h>

#include <tuple>
#include <vector>

namespace spotlight::training {

at::Tensor LshRotations(int64_t rows, int64_t columns, uint64_t seed) {
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<at::Tensor> rotations;
  for (int64_t column = 0; column < columns; column += rows) {
    const at::Tensor normal = at::randn({rows, rows}, generator, at::TensorOptions().dtype(at::kDouble));
    rotations.push_back(std::get<0>(at::linalg_qr(normal)));
  }
  return at::cat(rotations, 1).narrow(1, 0, columns).to(at::kFloat).contiguous();
}

at::Tensor RandomDirections(int64_t rows, int64_t columns, uint64_t seed) {
  return at::randn({rows, columns}, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

at::Tensor CentreOf(const at::Tensor& keys) {
  return keys.to(at::kFloat).mean(1, /*keepdim=*/true);
}

}  // namespace spotlight::training
