#include "kernels/planes.h"

#include <algorithm>

namespace spotlight::kernels {
namespace {

// Sets bit b of every plane j whose bit is set in `digits`.
void SetBit(uint32_t digits, int b, int words, int num_planes, uint32_t* planes) {
  for (int j = 0; j < num_planes; ++j) {
    planes[j * words + b / 32] |= (digits >> j & 1u) << b % 32;
  }
}

}  // namespace

void BuildAsymmetricPlanes(const int32_t* weights, int words, int num_planes, uint32_t* planes) {
  std::fill_n(planes, num_planes * words, 0u);
  for (int b = 0; b < 32 * words; ++b) {
    SetBit(static_cast<uint32_t>(weights[b] + (1 << num_planes) - 1) / 2, b, words, num_planes, planes);
  }
}

void BuildSymmetricPlanes(const uint32_t* query_codes, int group, int words, uint32_t* planes) {
  const int num_planes = SymmetricNumPlanes(group);
  const uint32_t top = 1u << (num_planes - 1);
  const uint32_t top_weight = SymmetricTopPlaneWeight(group);
  std::fill_n(planes, num_planes * words, 0u);
  for (int b = 0; b < 32 * words; ++b) {
    uint32_t count = 0;
    for (int g = 0; g < group; ++g) count += query_codes[g * words + b / 32] >> b % 32 & 1u;
    SetBit(count >= top ? top | (count - top_weight) : count, b, words, num_planes, planes);
  }
}

int32_t RawScore(const uint32_t* code, const uint32_t* planes, int words, int plane_stride, int num_planes,
                 int32_t top_plane_weight) {
  int32_t raw = 0;
  for (int j = 0; j < num_planes; ++j) {
    int32_t matches = 0;
    for (int w = 0; w < words; ++w) matches += __builtin_popcount(~(code[w] ^ planes[j * plane_stride + w]));
    raw += PlaneWeight(j, num_planes, top_plane_weight) * matches;
  }
  return raw;
}

}  // namespace spotlight::kernels
