// Matrices of a hash file that are stored in 8 bits: NAME [Hkv, in, out] in I8 beside NAME.scale [Hkv, out] in F32, one
// scale for each output of each KV head; element = integer * scale. Kernels take no integers: what is read is rounded
// to the type of the file's biases, as if the file had held that. No torch.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/safetensors.h"

namespace spotlight::engine {

// Behind a matrix's name.
inline constexpr char kScaleSuffix[] = ".scale";

// What matrices become beside the bias of this name: F32 where it is, else BF16.
kernels::DType DequantisedType(const SafetensorsFile& file, const std::string& bias);

struct DequantisedMatrix {
  std::vector<std::byte> bytes;
  TensorView view;  // of `bytes`: moving keeps it, copying does not
};

// `dtype`: kF32 or kBF16 (round to nearest, ties to even). INVALID_ARGUMENT "tensor NAME ...": not three dimensions; a
// scale that is missing, of another type or shape, or not a positive number. Products may overflow: the caller looks.
absl::StatusOr<DequantisedMatrix> ReadInt8Matrix(const SafetensorsFile& file, const std::string& name,
                                                 kernels::DType dtype);

}  // namespace spotlight::engine
