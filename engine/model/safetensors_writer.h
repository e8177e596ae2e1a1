// Writes a safetensors file piece by piece: the header first, then the tensors' bytes in the order announced.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/layout.h"

namespace spotlight::engine {

// Thread-compatible. A disk that is full is RESOURCE_EXHAUSTED. The file appears under its name when Finish returns OK,
// and not before: until then it is PATH.partial, which the destructor removes.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    kernels::DType dtype = kernels::DType::kF32;
    std::vector<int64_t> shape;
    bool is_int8 = false;  // stored as I8, whatever dtype says
  };

  // `tensors` in the order of their bytes in the file, names distinct. The data begins at a multiple of 8 bytes. Equal
  // arguments and bytes give equal files.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                                   const std::vector<Tensor>& tensors,
                                                                   const std::map<std::string, std::string>& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next `num_bytes` bytes, tensors' borders or not.
  absl::Status Append(const void* bytes, size_t num_bytes);
  // INVALID_ARGUMENT when more or fewer bytes came than the tensors have. What Finish named is on the disk, not only in
  // the system's memory: a crash of the machine leaves the old file or the new one.
  absl::Status Finish();

 private:
  SafetensorsWriter(std::string path, uint64_t data_bytes);

  std::string path_, partial_path_;
  std::ofstream file_;
  uint64_t data_bytes_;  // announced
  uint64_t appended_bytes_ = 0;
};

}  // namespace spotlight::engine
