// What a hash's trainer must know about the model.
#pragma once

#include <cstdint>
#include <vector>

namespace spotlight::training {

struct HashShape {
  int32_t num_layers = 0;  // L, hashed ones
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::vector<float> inv_freq;  // [D / 2]
  int32_t target_context = 0;   // positions to serve
};

}  // namespace spotlight::training
