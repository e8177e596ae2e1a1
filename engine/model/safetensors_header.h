// The JSON header of a safetensors file, checked whole before any tensor is handed out.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spotlight::engine {

struct SafetensorsHeader {
  struct Tensor {
    std::string dtype;  // as written: "BF16"
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  // bytes of the data section
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

// `text`: the header. `data_bytes`: the size of the data section, which the tensors must cover exactly, one after
// another. INVALID_ARGUMENT: the reason alone, without the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text, uint64_t data_bytes);

}  // namespace spotlight::engine
