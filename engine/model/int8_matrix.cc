#include "engine/model/int8_matrix.h"

#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/safetensors_values.h"

namespace spotlight::engine {
namespace {

absl::Status AtTensor(const std::string& name, const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " ", reason));
}

// [heads, out].
absl::StatusOr<std::vector<float>> ReadScales(const SafetensorsFile& file, const std::string& matrix, int64_t heads,
                                              int64_t out) {
  const std::string name = matrix + kScaleSuffix;
  if (!file.Has(name)) return AtTensor(matrix, absl::StrCat("is I8 and there is no ", name));
  const absl::StatusOr<TensorView> view = file.Find(name);
  if (!view.ok() || view->dtype != kernels::DType::kF32) return AtTensor(name, "is not F32");
  const std::vector<int64_t> shape = {heads, out};
  if (view->shape != shape) {
    return AtTensor(name, absl::StrCat("has shape ", ShapeText(view->shape), ", must be ", ShapeText(shape)));
  }
  std::vector<float> scales(NumElements(*view));
  ReadFloats(*view, 0, NumElements(*view), scales.data());
  for (const float scale : scales) {
    if (!(scale > 0) || std::isinf(scale)) {
      return AtTensor(name, absl::StrCat("must hold positive numbers, holds ", scale));
    }
  }
  return scales;
}

}  // namespace

kernels::DType DequantisedType(const SafetensorsFile& file, const std::string& bias) {
  const absl::StatusOr<TensorView> view = file.Find(bias);
  return view.ok() && view->dtype == kernels::DType::kF32 ? kernels::DType::kF32 : kernels::DType::kBF16;
}

absl::StatusOr<DequantisedMatrix> ReadInt8Matrix(const SafetensorsFile& file, const std::string& name,
                                                 kernels::DType dtype) {
  const absl::StatusOr<Int8View> stored = file.FindInt8(name);
  if (!stored.ok()) return AtTensor(name, "is not I8");
  if (stored->shape.size() != 3) {
    return AtTensor(name, absl::StrCat("has shape ", ShapeText(stored->shape), ", must have three dimensions"));
  }
  const int64_t heads = stored->shape[0], in = stored->shape[1], out = stored->shape[2];
  const absl::StatusOr<std::vector<float>> scales = ReadScales(file, name, heads, out);
  if (!scales.ok()) return scales.status();

  DequantisedMatrix matrix;
  const size_t size = kernels::SizeOf(dtype);
  matrix.bytes.resize(stored->num_elements * size);
  const int8_t* integer = stored->data;
  std::byte* element = matrix.bytes.data();
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t row = 0; row < in; ++row) {
      const float* scale = scales->data() + head * out;
      for (int64_t column = 0; column < out; ++column, ++integer, element += size) {
        const float value = static_cast<float>(*integer) * scale[column];
        const uint16_t half = ToBf16(value);
        std::memcpy(element, dtype == kernels::DType::kF32 ? static_cast<const void*>(&value) : &half, size);
      }
    }
  }
  matrix.view = {dtype, stored->shape, matrix.bytes.data(), matrix.bytes.size()};
  return matrix;
}

}  // namespace spotlight::engine
