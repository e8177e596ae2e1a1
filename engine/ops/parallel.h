// LibTorch's threads for our own loops, so that there is one pool of them.
#pragma once

#include <cstdint>
#include <functional>

namespace spotlight::engine {

// Calls body(begin, end) for disjoint ranges of at least `grain` that cover [0, n), on as many threads as
// at::set_num_threads allows, and returns when all are done. at::parallel_for itself is a plain loop wherever the file
// that calls it is compiled without OpenMP: call it through here.
void ParallelFor(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace spotlight::engine
