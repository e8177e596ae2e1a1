// Bit-planes of a query group, and the score that they give a key: what makes scoring independent of G.
//
// raw = sum_j a_j * popc(~(code ^ plane_j)), a_j = 2^j for j < J - 1, a_{J-1} = top_plane_weight.
//
// Asymmetric (learned query side): odd integer weights n_b in [-(2^J - 1), 2^J - 1], one per bit. Then
//   sum_b n_b * (bit b of the code ? 1 : -1) = 2 * raw - 32 * W * (2^J - 1).
// Symmetric (one code per query head, summed over the group): n_b in [0, G] counts the heads whose bit b is set. Then
//   raw = sum_g popc(~(code ^ query_g)), for every G: that is why the top plane's weight is not always a power of two.
//
// Plain functions of their arguments; Thread-safe.
#pragma once

#include <cstdint>

namespace spotlight::kernels {

inline int32_t PlaneWeight(int plane, int num_planes, int top_plane_weight) {
  return plane == num_planes - 1 ? top_plane_weight : 1 << plane;
}

inline int32_t AsymmetricTopPlaneWeight(int num_planes) {
  return 1 << (num_planes - 1);
}

// Planes that the symmetric form of a group needs: the bits of G.
inline int SymmetricNumPlanes(int group) {
  int planes = 0;
  while (group >> planes) ++planes;
  return planes;
}

inline int32_t SymmetricTopPlaneWeight(int group) {
  return group - ((1 << (SymmetricNumPlanes(group) - 1)) - 1);
}

// planes [num_planes, words]; weights [32 * words] odd integers within +-(2^num_planes - 1).
void BuildAsymmetricPlanes(const int32_t* weights, int words, int num_planes, uint32_t* planes);

// planes [SymmetricNumPlanes(group), words]; query_codes [group, words].
void BuildSymmetricPlanes(const uint32_t* query_codes, int group, int words, uint32_t* planes);

// planes [num_planes, words] whose consecutive planes lie `plane_stride` words apart; code [words].
int32_t RawScore(const uint32_t* code, const uint32_t* planes, int words, int plane_stride, int num_planes,
                 int32_t top_plane_weight);

}  // namespace spotlight::kernels
