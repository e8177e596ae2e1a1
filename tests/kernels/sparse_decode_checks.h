// What tests of sparse_decode ask of every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {

// What one call leaves behind.
struct SparseResult {
  std::vector<std::vector<char>> output;       // bytes of each row
  std::vector<std::vector<int32_t>> selected;  // of each row and KV head
  std::vector<int32_t> num_selected;

  bool operator==(const SparseResult& other) const {
    return output == other.output && selected == other.selected && num_selected == other.num_selected;
  }
};

SparseResult ResultOf(const DecodeCase& test);

// Runs the reference, then every backend: selections are equal index by index, outputs within the dtype's tolerance for
// each row and head by itself, everything else in the arena untouched.
void ExpectMatchesReference(DecodeCase* test, const SparseDecodeParams& params);

// The outputs of `rows` of the case in `test` against `expected` [rows, Hq, D], head by head.
void ExpectCloseByHead(const DecodeCase& test, const std::vector<float>& output, const std::vector<float>& expected);

// The call for `count` rows of `params` beginning at row `first`.
SparseDecodeParams RowsOf(SparseDecodeParams params, int32_t first, int32_t count);

}  // namespace spotlight::kernels::testing
