// Pinned host memory, and copies between it and the device.
#pragma once

#include <ATen/core/Tensor.h>

namespace spotlight::engine {

// Uninitialised.
at::Tensor PinnedEmpty(at::IntArrayRef shape, at::ScalarType dtype);

// Enqueues a copy on the current stream: `from` and `to` are contiguous and of one size, one of them pinned, the other
// on the device. The pinned one is kept until the copy has been made, which its owner knows by an event. That is what
// sets this apart from copy_: there torch looks after the memory and records an event as it is let go, in a destructor,
// which on a lost device throws and ends the process. c10::Error is the device's.
void EnqueueCopy(const at::Tensor& to, const at::Tensor& from);

}  // namespace spotlight::engine
