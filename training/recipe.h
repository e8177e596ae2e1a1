// How a hash is trained: everything that decides what comes out, and nothing about where it runs. No torch.
#pragma once

#include <cstdint>
#include <string>

namespace spotlight::training {

// z: a separate MLP plus learned skip for keys and for the group's queries together; the only one that is served
// beside linear. paper: arXiv 2508.19740's MLP, one hash per query head, query bits against key bits. linear: h = k S +
// b.
enum class EncoderKind : uint8_t { kZ, kLinear, kPaper };

// kCrossEntropy: listwise, against the group's attention mass. kBradleyTerry: the paper's pairwise ranking of the exact
// top tokens over the others. kSoftTopK: cross-entropy against a uniform target on the exact top tokens.
enum class Loss : uint8_t { kCrossEntropy, kBradleyTerry, kSoftTopK };

// How queries are compared. kReal: the group's real weights, quantised to planes (one code per KV head). kBits: each
// query head's own bits, matches summed over the group (evaluation and the symmetric form).
enum class QueryForm : uint8_t { kReal, kBits };

// How a hash file stores matrices (engine/model/int8_matrix.h). No part of a recipe: training is the same.
enum class StoredWeights : uint8_t { kBf16, kInt8 };

struct Recipe {
  EncoderKind encoder = EncoderKind::kZ;
  Loss loss = Loss::kCrossEntropy;
  QueryForm query = QueryForm::kReal;
  bool per_query_head = false;  // a hash (and a code) per query head instead of per KV head: evaluation only

  int32_t hash_bits = 128;      // N: 32, 64, 128 or 256
  int32_t num_planes = 4;       // J
  int32_t prefix_bits = 32;     // 0: not nested; else the first bits also rank by themselves
  float prefix_weight = 0.25f;  // of the prefix's own loss
  int32_t key_hidden = 128, query_hidden = 256;

  int32_t first_layer = 2;  // layers before it stay dense
  int32_t steps = 6000;
  int32_t tokens_per_sequence = 4096;
  int32_t queries_per_step = 128;
  // Positions that the hash must serve; 0: the model's context. Sequences are rotated to positions in [0, this).
  int32_t target_context = 0;
  bool position_mix = true;

  double learning_rate = 8e-3, final_learning_rate_ratio = 0.02, warmup_ratio = 0.05;
  double beta1 = 0.9, beta2 = 0.98, weight_decay = 0.1, gradient_clip = 1.0;
  uint64_t seed = 1;
};

// One line that names every field's value, canonical: the header of a hash file, and what a resumed run must equal.
std::string FormatRecipe(const Recipe& recipe);

// The step c of plane quantisation with J planes, in units of rms(w) (see kernels/encode_and_append.h): the measured
// optimum of normally distributed weights, 0.335 at J = 4.
float PlaneStep(int32_t num_planes);

}  // namespace spotlight::training
