#include "engine/model/embedding.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <cstring>
#include <utility>

#include "engine/ops/tensor.h"

namespace spotlight::engine {

absl::StatusOr<Embedding> Embedding::Load(TensorSource* source, WeightLoader* loader, const std::string& name,
                                          int64_t vocab_size, int64_t hidden_size, at::ScalarType dtype,
                                          at::Device device) {
  Embedding embedding;
  embedding.hidden_size_ = hidden_size;
  embedding.dtype_ = dtype;
  if (device.is_cpu()) {
    auto view = source->Map(name, {vocab_size, hidden_size});
    if (!view.ok()) return view.status();
    embedding.mapped_ = *view;
  }
  if (embedding.mapped_.data == nullptr) {
    auto table = loader->Load(name, {vocab_size, hidden_size});
    if (!table.ok()) return table.status();
    embedding.table_ = *std::move(table);
  }
  return embedding;
}

at::Tensor Embedding::operator()(const at::Tensor& token_ids) const {
  if (table_.defined()) return at::index_select(table_, 0, token_ids);
  const int64_t tokens = token_ids.size(0);
  at::Tensor rows = at::empty({tokens, hidden_size_}, at::TensorOptions().dtype(ToScalarType(mapped_.dtype)));
  const size_t row_bytes = static_cast<size_t>(hidden_size_) * kernels::SizeOf(mapped_.dtype);
  auto* out = static_cast<std::byte*>(rows.data_ptr());
  const auto* ids = token_ids.data_ptr<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) std::memcpy(out + t * row_bytes, mapped_.data + ids[t] * row_bytes, row_bytes);
  return rows.to(dtype_);
}

}  // namespace spotlight::engine
