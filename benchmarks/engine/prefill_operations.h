// What a prompt's chunk takes in one layer, operation by operation, and the rate of a plain matrix product beside it.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace spotlight::engine {

struct OperationTime {
  std::string name;
  int64_t tokens = 0, past = 0;
  double ms = 0;
  double first_ms = 0;  // of the first call, which may set up what later ones use
  double flops = 0;     // 0: bound by memory
};

// bf16, of `size`^3.
double MatmulTflops(int64_t size, at::Device device);

// bf16. Attention for each of `pasts`.
absl::StatusOr<std::vector<OperationTime>> TimePrefillOperations(const ModelConfig& config, int64_t tokens,
                                                                 const std::vector<int64_t>& pasts, at::Device device);

}  // namespace spotlight::engine
