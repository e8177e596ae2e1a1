// Ways to choose the tokens that a query attends to, behind one interface: exact oracles, trained hashes, published
// methods. Evaluation only; the served kernels select in kernels/sparse_decode.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace spotlight::training {

// N queries of one layer of one sequence of T tokens, and all that is exactly known about them. U = Hkv here.
struct QuerySet {
  int32_t layer = 0;      // of the model
  at::Tensor q;           // [Hkv, G, N, D] after RoPE, the model's number type
  at::Tensor k, v;        // [Hkv, T, D]
  at::Tensor positions;   // [N] int64, ascending; a query at p sees S = p + 1 tokens
  at::Tensor num_select;  // [N] int64, K of kernels/budget.h
  at::Tensor candidates;  // [N, T] bool: tokens that compete, [sinks, S - recent)
  at::Tensor always;      // [N, T] bool: sinks and recent tokens, attended to in any case
  at::Tensor logits;      // [Hkv, G, N, T] float: q . k / sqrt(D); -inf where token > p
  at::Tensor probs;       // [Hkv, G, N, T] float: softmax of logits
};

struct Selection {
  // [Hkv, G or 1, N, T] bool, candidates only: with 1 the group shares its tokens.
  at::Tensor mask;
  // Undefined, or [Hkv, G, N, T] float added to the logits of what was selected: for samplers that correct for the
  // probability of having drawn a token.
  at::Tensor logit_offset;
};

// Thread-compatible. May keep what it computed for the keys of the last sequence (same `k` storage and layer).
class Selector {
 public:
  virtual ~Selector() = default;
  virtual const std::string& name() const = 0;
  // Selects num_select[n] tokens for each query (samplers: about as many).
  virtual absl::StatusOr<Selection> Select(const QuerySet& queries) = 0;
};

// The K candidates with the highest scores; of equal scores the lower index wins. score [..., N, T] -> bool of its
// shape.
at::Tensor TopCandidates(const at::Tensor& score, const at::Tensor& candidates, const at::Tensor& num_select);

}  // namespace spotlight::training
