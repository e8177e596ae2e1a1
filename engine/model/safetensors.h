// One safetensors file, memory-mapped: names, shapes and bytes. No torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/layout.h"

namespace spotlight::engine {

// Bytes inside a mapped file, which the file that gave the view keeps open. Not aligned beyond a byte. Little-endian.
struct TensorView {
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t num_bytes = 0;
};

// The same of a tensor of 8-bit integers; what they stand for is its reader's to know.
struct Int8View {
  std::vector<int64_t> shape;
  const int8_t* data = nullptr;
  size_t num_elements = 0;
};

// Thread-compatible; views stay valid as long as it lives. The file must not be shortened meanwhile: reading pages that
// are gone is a bus error, as with every mapped file. Replace checkpoints by renaming.
class SafetensorsFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT "PATH: reason": truncated, a header that is not JSON or lies about offsets, sizes,
  // shapes or dtypes, tensors that overlap or leave holes, a name given twice. Tensors of other dtypes than F32, BF16,
  // F16 are refused when asked for, not before.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // NOT_FOUND "PATH: has no tensor NAME".
  absl::StatusOr<TensorView> Find(const std::string& name) const;
  // INVALID_ARGUMENT "PATH: tensor NAME has dtype ..., not I8".
  absl::StatusOr<Int8View> FindInt8(const std::string& name) const;
  bool Has(const std::string& name) const;
  bool HasInt8(const std::string& name) const;
  std::vector<std::string> names() const;                      // sorted
  const std::map<std::string, std::string>& metadata() const;  // the header's __metadata__
  const std::string& path() const;
  // Gives the pages that lie wholly inside `view` back to the system; it can still be read (from the file again). Does
  // nothing with a view of other memory.
  void Release(const TensorView& view) const;

 private:
  struct Mapping;
  explicit SafetensorsFile(std::unique_ptr<Mapping> mapping);
  std::unique_ptr<Mapping> mapping_;
};

// "[2, 3]".
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace spotlight::engine
