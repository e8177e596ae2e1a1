// Token ids that follow no text: any do.
#pragma once

#include <cstdint>
#include <vector>

namespace spotlight::training {

inline std::vector<int32_t> SomeTokens(int64_t count) {
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((i * i * 7 + i * 13 + 5) % 500);
  return ids;
}

}  // namespace spotlight::training
