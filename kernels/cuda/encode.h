// The stages of encode_and_append. Each enqueues one launch; params must be valid.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/encode_and_append.h"

namespace spotlight::kernels::cuda {

// Rotates q into q_out, appends V, rotates and appends K. beside_keys: without K, and beside EncodeKeys of the same
// tokens, which must be the stream's last kernel.
void RotateAndAppend(const EncodeAndAppendParams& params, bool beside_keys, LaunchSequence* sequence);

// Everything for the first num_plane_tokens tokens in one launch: thread block clusters share out an encoder's weights.
bool EncodeDecodeSupported(const EncodeAndAppendParams& params);
void EncodeDecode(const EncodeAndAppendParams& params, LaunchSequence* sequence);

// Rotates and appends K and its codes: matrix products on tensor cores. A key's bits equal those of EncodeDecode.
bool EncodeKeysSupported(const EncodeAndAppendParams& params);
void EncodeKeys(const EncodeAndAppendParams& params, LaunchSequence* sequence);

// Any shape and type: codes of the keys in the pages (with_keys), planes of the queries in q_out.
void EncodePlain(const EncodeAndAppendParams& params, bool with_keys, LaunchSequence* sequence);

}  // namespace spotlight::kernels::cuda
