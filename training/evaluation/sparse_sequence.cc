#include "training/evaluation/sparse_sequence.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/evaluation/tail_queries.h"

namespace spotlight::training {
namespace {

// On a CPU what stays in the cache is fast; a GPU wants long rows of work.
constexpr int64_t kCpuChunkBytes = int64_t{32} << 20;
constexpr int64_t kGpuChunkBytes = int64_t{1} << 30;

// The attention of the tokens [first, T), given the keys and values before them.
class TailAttention {
 public:
  TailAttention(const DenseRun& dense, Selector* selector, const SparseRunOptions& options)
      : dense_(dense), selector_(selector), options_(options) {}

  absl::StatusOr<at::Tensor> operator()(const AttentionInput& input) const {
    const at::Tensor k = at::cat({dense_.k[input.layer], input.k}, 1);
    const at::Tensor v = at::cat({dense_.v[input.layer], input.v}, 1);
    const int64_t tokens = k.size(1), first = dense_.dense_tokens;
    const int64_t chunk = ChunkQueries(input.q, k);
    at::Tensor out = at::empty_like(input.q);
    // From the end, so that a selector which keeps what it computed for the keys sees all of them first.
    for (int64_t end = tokens; end > first; end -= std::min(chunk, end - first)) {
      const int64_t begin = std::max(first, end - chunk);
      const at::Tensor q = input.q.narrow(1, begin - first, end - begin);
      const at::Tensor positions = at::arange(begin, end, at::TensorOptions().dtype(at::kLong).device(q.device()));
      auto attended = Attend(input.layer, q, k.narrow(1, 0, end), v.narrow(1, 0, end), positions);
      if (!attended.ok()) return attended.status();
      out.narrow(1, begin - first, end - begin).copy_(*attended);
    }
    return out;
  }

 private:
  int64_t ChunkQueries(const at::Tensor& q, const at::Tensor& k) const {
    int64_t bytes = options_.max_chunk_bytes;
    if (bytes <= 0) bytes = q.is_cpu() ? kCpuChunkBytes : kGpuChunkBytes;
    return std::max<int64_t>(1, bytes / QueryBytes(q.size(0), k.size(0), k.size(1)));
  }

  absl::StatusOr<at::Tensor> Attend(int32_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& positions) const {
    if (selector_ == nullptr || layer < options_.first_layer) return AttendAll(q, k, v, positions);
    const QuerySet queries = MakeQuerySet(layer, q, k, v, positions, options_.budget);
    auto selection = selector_->Select(queries);
    if (!selection.ok()) return selection.status();
    return AttendSelected(queries, *selection);
  }

  // Not by way of a query set: that dense and sparse runs agree is then worth testing.
  static at::Tensor AttendAll(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& positions) {
    const at::Tensor seen = at::arange(k.size(1), positions.options()) <= positions.unsqueeze(1);
    const at::ScalarType dtype = q.is_cpu() ? at::kFloat : q.scalar_type();
    const auto batch = [&](const at::Tensor& x) { return x.to(dtype).unsqueeze(0); };
    return at::scaled_dot_product_attention(batch(q), batch(k), batch(v), seen, /*dropout_p=*/0.0,
                                            /*is_causal=*/false, /*scale=*/{}, /*enable_gqa=*/true)
        .squeeze(0)
        .to(q.scalar_type());
  }

  const DenseRun& dense_;
  Selector* const selector_;
  const SparseRunOptions& options_;
};

}  // namespace

absl::StatusOr<DenseRun> RunDense(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                  int64_t dense_tokens) {
  const auto tokens = static_cast<int64_t>(token_ids.size());
  if (dense_tokens < 1 || dense_tokens >= tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("dense tokens: must be at least 1 and under the sequence's ", tokens, ", got ", dense_tokens));
  }
  if (tokens > model.config().max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a sequence of ", tokens, " tokens does not fit the model's context of ", model.config().max_context_tokens));
  }
  DenseRun dense;
  dense.token_ids.assign(token_ids.begin(), token_ids.end());
  dense.dense_tokens = dense_tokens;
  const auto keep = [&](const AttentionInput& input) -> absl::StatusOr<at::Tensor> {
    dense.k.push_back(input.k.narrow(1, 0, dense_tokens).clone());
    dense.v.push_back(input.v.narrow(1, 0, dense_tokens).clone());
    return DenseAttention(input);
  };
  auto states = model.Run(token_ids, keep, dense_tokens, tokens);
  if (!states.ok()) return states.status();
  dense.states = *std::move(states);
  return dense;
}

absl::StatusOr<at::Tensor> RunSparse(const SequenceModel& model, const DenseRun& dense, Selector* selector,
                                     const SparseRunOptions& options) {
  const auto tail = absl::MakeConstSpan(dense.token_ids).subspan(dense.dense_tokens);
  return model.Run(tail, TailAttention(dense, selector, options), 0, static_cast<int64_t>(tail.size()),
                   dense.dense_tokens);
}

}  // namespace spotlight::training
