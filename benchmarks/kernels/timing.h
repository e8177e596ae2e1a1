#pragma once

namespace spotlight::benchmarks {

// Of one operation on the device.
struct Timing {
  double us = 0;        // launched directly
  double graph_us = 0;  // as a replay of a CUDA graph
};

}  // namespace spotlight::benchmarks
