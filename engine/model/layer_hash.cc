#include "engine/model/layer_hash.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {
namespace {

const void* Place(const TensorView& view, at::Device device, LayerHash* hash) {
  if (view.data == nullptr) return nullptr;  // a linear encoder has no hidden layer
  at::Tensor tensor = at::empty(view.shape, at::TensorOptions().dtype(ToScalarType(view.dtype)));
  std::memcpy(tensor.data_ptr(), view.data, view.num_bytes);
  hash->storage.push_back(tensor.to(device));
  return hash->storage.back().data_ptr();
}

kernels::EncoderWeights PlaceEncoder(const LayerHashView::Encoder& encoder, at::Device device, LayerHash* hash) {
  kernels::EncoderWeights weights;
  weights.hidden = encoder.hidden;
  weights.w1 = Place(encoder.w1, device, hash);
  weights.b1 = Place(encoder.b1, device, hash);
  weights.w2 = Place(encoder.w2, device, hash);
  weights.b2 = Place(encoder.b2, device, hash);
  weights.skip = Place(encoder.skip, device, hash);
  return weights;
}

}  // namespace

absl::StatusOr<std::map<int32_t, LayerHash>> LoadLayerHashes(const HashFile& file, at::Device device) {
  std::map<int32_t, LayerHash> hashes;
  try {
    for (const auto& [layer, view] : file.layers) {
      LayerHash hash;
      hash.weights.weight_dtype = file.dtype;
      hash.weights.hash_words = file.hash_words;
      hash.weights.num_planes = file.num_planes;
      hash.weights.plane_step = file.plane_step;
      hash.weights.key = PlaceEncoder(view.key, device, &hash);
      hash.weights.query = PlaceEncoder(view.query, device, &hash);
      hashes.emplace(layer, std::move(hash));
    }
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("hash weights do not fit: ", error.what_without_backtrace()));
  }
  return hashes;
}

}  // namespace spotlight::engine
