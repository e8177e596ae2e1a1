#include "engine/ops/parallel.h"

#include <ATen/Parallel.h>

namespace spotlight::engine {

#ifndef _OPENMP
#error "without -fopenmp at::parallel_for runs on one thread"
#endif

void ParallelFor(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  at::parallel_for(0, n, grain, [&body](int64_t begin, int64_t end) { body(begin, end); });
}

}  // namespace spotlight::engine
