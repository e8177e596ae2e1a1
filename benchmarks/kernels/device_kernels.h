// Kernels that measure the machine, not an operation: a spinning one, an empty one, a plain read. Enqueued on `stream`
// (cudaStream_t); the first CUDA error ends the program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spotlight::benchmarks {

// Keeps the stream busy for `nanoseconds` while the host enqueues what comes after.
void Spin(void* stream, int64_t nanoseconds);

void LaunchEmpty(void* stream);

// Reads `bytes` (a multiple of 16) once, nothing else: the time that any kernel which needs those bytes must take.
// `sink` is a word of device memory, whose value stays.
void ReadPlainly(void* stream, const void* data, size_t bytes, uint32_t* sink);

// The same, but for the hint that the data is not read again: what was in the L2 before makes room for it.
void ReadThroughL2(void* stream, const void* data, size_t bytes, uint32_t* sink);

}  // namespace spotlight::benchmarks
