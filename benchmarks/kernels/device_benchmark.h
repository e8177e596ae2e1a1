// The benchmark on a GPU: which operations, shapes, batches and contexts, and the run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "benchmarks/kernels/report.h"

namespace spotlight::benchmarks {

struct DeviceOptions {
  // Of encode, sparse, attention, dense, prefill, shapes, clustered; empty: all.
  std::vector<std::string> ops;
  std::vector<int32_t> contexts = {8192, 32768, 131072, 524288, 1048576, 2097152};  // at batch 1
  // (batch, context)
  std::vector<std::pair<int32_t, int32_t>> batches = {{8, 32768}, {8, 131072}, {32, 8192}, {32, 32768}};
  int num_samples = 40;
  bool quick = false;        // short contexts of the other shapes and of the cluster
  bool encode_codes = true;  // false: random codes
  bool verify = true;
  std::string peer;  // a checkout of the public Spotlight kernels; empty: none
  std::string python = "python3";
  std::string commit = "unknown";
};

// Fails where there is no GPU. Prints as it goes.
Report RunOnDevice(const DeviceOptions& options);

}  // namespace spotlight::benchmarks
