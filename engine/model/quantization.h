// How a model's linear layers are stored.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

// kFp8: the layers' matrices, all but the output head's, in e4m3 with one scale for each output, rounded as they are
// loaded. A GPU with bf16 reads half the bytes; see model/linear.h for what it multiplies. A CPU computes with the
// rounded values in its own type and saves nothing. Embeddings, the output head, norms and biases stay as they are.
enum class Quantization : uint8_t { kNone, kFp8 };

// As flags name them: "none", "fp8". Nothing for other names.
inline absl::optional<Quantization> QuantizationNamed(absl::string_view name) {
  if (name == "none") return Quantization::kNone;
  if (name == "fp8") return Quantization::kFp8;
  return absl::nullopt;
}

inline const char* QuantizationName(Quantization quantization) {
  return quantization == Quantization::kFp8 ? "fp8" : "none";
}

}  // namespace spotlight::engine
