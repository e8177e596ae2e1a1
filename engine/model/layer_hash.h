// A hash file's encoders on the device.
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/statusor.h"
#include "engine/model/hash_file.h"
#include "engine/ops/attention.h"

namespace spotlight::engine {

// By layer. RESOURCE_EXHAUSTED when they do not fit.
absl::StatusOr<std::map<int32_t, LayerHash>> LoadLayerHashes(const HashFile& file, at::Device device);

}  // namespace spotlight::engine
