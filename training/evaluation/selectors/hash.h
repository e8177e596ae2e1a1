// Selection by a hash file, as kernels/sparse_decode.h selects: bits of the keys, integer weights of the queries,
// highest score first, ties to the lower index.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "training/evaluation/selector.h"
#include "training/evaluation/selectors/evaluated_hash.h"

namespace spotlight::training {

enum class HashScoring : uint8_t {
  kServed,     // real-valued queries quantised to the file's planes; bits of queries in symmetric files
  kPrefilter,  // the same, among the prefilter_factor * K candidates with the best scores of the first 32 bits
  kReal,       // real-valued queries as they are: what quantising costs. Not for symmetric files
  // Scored as kServed, but as many tokens as reach a share of the mass that their scores estimate, from 1/8 of K to 5
  // K. Not for symmetric files.
  kAdaptive,
};

struct HashSelectorOptions {
  std::string name;  // in reports
  HashScoring scoring = HashScoring::kServed;
  int32_t prefilter_factor = 4;
  double adaptive_share = 0.5;
};

// Select fails for a layer that the file does not have. INVALID_ARGUMENT: kReal or kAdaptive with a symmetric file.
absl::StatusOr<std::unique_ptr<Selector>> MakeHashSelector(std::shared_ptr<const EvaluatedHash> hash,
                                                           const HashSelectorOptions& options);

// How many of a row's best candidates reach `share` of the softmax of `logits` [..., N, T] over its candidates [N, T]:
// the fewest, at least least [N], at most most [N] and no more than there are -> [..., N] int64.
at::Tensor TokensForShare(const at::Tensor& logits, const at::Tensor& candidates, double share, const at::Tensor& least,
                          const at::Tensor& most);

}  // namespace spotlight::training
