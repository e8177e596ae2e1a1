#include "engine/ops/parallel.h"

#include <ATen/Parallel.h>

namespace spotlight::engine {

const kernels::ParallelFor& TorchParallelFor() {
  static const auto* const parallel_for =
      new kernels::ParallelFor([](int64_t n, const std::function<void(int64_t, int64_t)>& body) {
        at::parallel_for(0, n, 1, [&body](int64_t begin, int64_t end) { body(begin, end); });
      });
  return *parallel_for;
}

}  // namespace spotlight::engine
