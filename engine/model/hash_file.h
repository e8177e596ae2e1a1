// The hash file: learned encoders per layer, safetensors with metadata format = spotlight-hash-1 (kernels/README.md
// holds the specification, hash_file_metadata.h the keys, int8_matrix.h how matrices are stored in 8 bits). No torch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/int8_matrix.h"
#include "engine/model/safetensors.h"

namespace spotlight::engine {

// One layer's tensors, in HashFile::dtype; one that is absent (linear encoder) has null data.
struct LayerHashView {
  struct Encoder {
    int32_t hidden = 0;
    TensorView w1, b1, w2, b2, skip;
  };
  Encoder key, query;
  std::vector<float> logit_scale;  // [Hkv]
};

// Thread-compatible; views stay valid as long as it lives, also when it is moved.
struct HashFile {
  std::unique_ptr<SafetensorsFile> file;
  std::vector<DequantisedMatrix> dequantised;    // those that the file has in 8 bits
  kernels::DType dtype = kernels::DType::kBF16;  // of the encoders' tensors: BF16 or F32
  int32_t hash_words = 0;                        // W
  int32_t num_planes = 0;                        // J
  float plane_step = 0;                          // c
  int32_t prefix_bits = 0;                       // 0: codes were not trained nested, prefilter = auto means off
  bool trained = false;
  std::string model_fingerprint;
  std::map<int32_t, LayerHashView> layers;
};

// Checks every tensor's shape and values against the metadata and the metadata against `config` and
// `model_fingerprint`. NOT_FOUND or INVALID_ARGUMENT "PATH: reason" (lying header, wrong shapes, tensors missing or too
// many, numbers that are not finite, scales that are not positive, unknown format, encoder or scoring, another
// model's). trained = false is FAILED_PRECONDITION unless `allow_untrained`.
absl::StatusOr<HashFile> LoadHashFile(const std::string& path, const ModelConfig& config,
                                      const std::string& model_fingerprint, bool allow_untrained);

// The name of a hash file in its model's folder.
inline constexpr char kHashFileName[] = "spotlight_hash.safetensors";

// What --hash auto does: looks for a trained file of this model in the model's folder (kHashFileName),
// then in each of `folders` (every *.safetensors whose fingerprint matches, by name). Empty string: none. Files of
// `folders` that cannot be read are passed over; the model folder's own is returned, so that loading it says what is
// wrong.
std::string FindHashFile(const std::string& model_folder, const std::vector<std::string>& folders,
                         const std::string& model_fingerprint);

// Writes a file with random encoders in bf16, trained = false, for layers [first_layer, num_layers): for tests and for
// measuring cost before a hash is trained. Keys and queries go through the same random rotation, so that codes are
// those of plain locality-sensitive hashing. Same arguments, same bytes. INVALID_ARGUMENT: bounds of first_layer,
// hash_words, or the file cannot be written.
absl::Status WriteUntrainedHashFile(const std::string& path, const ModelConfig& config,
                                    const std::string& model_fingerprint, int32_t first_layer, int32_t hash_words,
                                    uint64_t seed);

}  // namespace spotlight::engine
