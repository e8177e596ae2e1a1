// The residual stream of a step's tokens and the norm that layers read it through.
#pragma once

#include <ATen/core/Tensor.h>

namespace spotlight::engine {

struct RmsNorm {
  at::Tensor weight;  // [hidden]
  double eps = 0;
};

// What Linear adds to and reads. An update may wait for the next norm, which reads x anyway and adds it on the way.
struct ResidualStream {
  at::Tensor x;       // [T, hidden], written in place
  at::Tensor update;  // [T, hidden], still to be added; undefined: none
};

}  // namespace spotlight::engine
