// What a selector computes from keys alone, kept while the same keys are asked again: chunks of one layer's queries,
// several budgets. Thread-compatible.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include "training/evaluation/selector.h"

namespace spotlight::training {

template <typename Value>
class KeyCache {
 public:
  // `compute(keys)` gives the value of the keys [Hkv, T, D]; a value computed for more tokens of the same storage is
  // handed out as it is.
  template <typename Compute>
  Value& Get(const QuerySet& queries, const Compute& compute) {
    if (!Holds(queries)) {
      value_ = compute(queries.k);
      // Kept alive: no other keys can come to lie at their address.
      keys_ = queries.k;
      layer_ = queries.layer;
    }
    return value_;
  }

 private:
  bool Holds(const QuerySet& queries) const {
    return keys_.defined() && layer_ == queries.layer && keys_.data_ptr() == queries.k.data_ptr() &&
           keys_.strides() == queries.k.strides() && keys_.size(0) == queries.k.size(0) &&
           keys_.size(1) >= queries.k.size(1);
  }

  at::Tensor keys_;
  int32_t layer_ = -1;
  Value value_;
};

}  // namespace spotlight::training
