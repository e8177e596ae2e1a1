// Which decode rows retrieve, how many tokens they select, and what that saves. Pure: the request's wish, the hash and
// the context's length decide.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_info.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/response_sink.h"

namespace spotlight::engine {

// num_select is K of a sparse row; 0 when the row is dense, for `dense_reason`.
struct RetrievalDecision {
  int32_t num_select = 0;
  DenseReason dense_reason = DenseReason::kNone;
  int32_t sink_tokens = 0, recent_tokens = 0;  // of a sparse row
  bool own_ends = false;                       // they are not the server's

  // Of a sparse row: tokens that compete, and all that it attends to.
  int32_t NumCandidates(int32_t context_len) const { return context_len - sink_tokens - recent_tokens; }
  int32_t NumAttended() const { return num_select + sink_tokens + recent_tokens; }
};

struct KvTraffic {
  int64_t read_bytes = 0;              // K, V and codes that a decode row reads, all layers
  int64_t dense_equivalent_bytes = 0;  // K and V of the whole context, all layers
};

// Thread-safe: immutable once made.
class RetrievalPolicy {
 public:
  // INVALID_ARGUMENT when ModelInfo::dtype is none of "fp32", "bf16", "fp16", or the budget is out of range.
  static absl::StatusOr<RetrievalPolicy> Create(const RetrievalOptions& options, const ModelInfo& model);

  // FAILED_PRECONDITION: SPARSE asked for, or required by the server, and the model has no hash.
  absl::Status Check(const RetrievalParams& params) const;

  // A decode row whose context, the token being appended included, is `context_len` tokens.
  // What the quality guardrail made of the request goes before its own budget.
  RetrievalDecision Decide(const RetrievalParams& params, const RetrievalFallback& fallback, int32_t context_len) const;

  // Layers without a hash read everything. A sparse row reads, per hashed layer, its candidates' codes and K and V of
  // the tokens it attends to (what a prefilter spares is not counted).
  KvTraffic Traffic(const RetrievalDecision& decision, int32_t context_len) const;

  bool untrained_hash() const { return has_hash_ && !trained_; }

 private:
  RetrievalPolicy() = default;

  RetrievalOptions options_;
  bool has_hash_ = false;
  bool trained_ = false;
  int64_t num_hashed_layers_ = 0;
  int64_t num_dense_layers_ = 0;
  int64_t kv_bytes_per_token_ = 0;    // one layer
  int64_t code_bytes_per_token_ = 0;  // one layer
};

}  // namespace spotlight::engine
