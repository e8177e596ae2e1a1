// The reads and exchanges of a decode step's sparse attention, without its arithmetic: of the pages that the step's
// rows own, and of the tokens that it selects. No kernel that reads this layout and agrees on an exact cut does less.
#pragma once

#include <ATen/ATen.h>

#include "benchmarks/kernels/decode_step.h"
#include "benchmarks/kernels/sparse_skeleton.h"

namespace spotlight::benchmarks {

class DecodeSkeleton {
 public:
  // D 128. Runs the step once, to know what it selects. `step` must outlive this.
  explicit DecodeSkeleton(DecodeStep* step);

  // Each enqueues on LibTorch's current stream.
  void Run(int parts);     // SkeletonPart, or'ed
  void RunBesideEncode();  // the step's encode_and_append, and the whole skeleton, which begins while it runs

  // What `parts` read.
  size_t Bytes(int parts) const;

 private:
  DecodeStep& step_;
  at::Tensor pieces_, tokens_, scratch_;  // [Hkv, pieces] int32, [Hkv, tokens] int32, bytes
  SkeletonWork work_;
};

}  // namespace spotlight::benchmarks
