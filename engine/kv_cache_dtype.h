// How the KV cache stores keys and values.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

// kAuto: in the type that the model is computed in. kFp8: in e4m3, with a scale for each token and head (see
// kernels/layout.h), beside a model computed in bf16, or on a CPU in fp32.
enum class KvCacheDType : uint8_t { kAuto, kFp8 };

// As flags name them: "auto", "fp8". Nothing for other names.
inline absl::optional<KvCacheDType> KvCacheDTypeNamed(absl::string_view name) {
  if (name == "auto") return KvCacheDType::kAuto;
  if (name == "fp8") return KvCacheDType::kFp8;
  return absl::nullopt;
}

inline const char* KvCacheDTypeName(KvCacheDType dtype) {
  return dtype == KvCacheDType::kFp8 ? "fp8" : "auto";
}

}  // namespace spotlight::engine
