#include "training/evaluation/query_set.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "training/evaluation/tail_queries.h"

namespace spotlight::training {
namespace {

// [Hq, T] floats alive at once for each query: logits, probabilities, a selector's scores and what ranks them, the
// measures' products, and masks.
constexpr int64_t kFloatsPerQueryHeadAndToken = 10;

}  // namespace

std::vector<int64_t> DrawQueryPositions(int64_t num_tokens, int32_t count, uint64_t seed) {
  const int64_t half = num_tokens / 2;
  std::vector<int64_t> positions(num_tokens - half);
  std::iota(positions.begin(), positions.end(), half);
  const auto drawn = std::min<int64_t>(count, num_tokens - half);
  // Fisher and Yates' shuffle, as far as it is needed. The standard's distributions differ between libraries.
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < drawn; ++i) {
    const auto left = static_cast<uint64_t>(num_tokens - half - i);
    std::swap(positions[i], positions[i + static_cast<int64_t>(random() % left)]);
  }
  positions.resize(drawn);
  std::sort(positions.begin(), positions.end());
  return positions;
}

QuerySet QueriesAt(const AttentionInput& input, absl::Span<const int64_t> positions, const kernels::Budget& budget) {
  const at::Tensor rows =
      at::tensor(at::ArrayRef<int64_t>(positions.data(), positions.size()), at::kLong).to(input.q.device());
  return MakeQuerySet(input.layer, input.q.index_select(1, rows), input.k, input.v, rows, budget);
}

void SetBudget(const kernels::Budget& budget, QuerySet* queries) {
  const at::Tensor positions = queries->positions.cpu();
  std::vector<int64_t> num_select(positions.numel());
  for (size_t n = 0; n < num_select.size(); ++n) {
    num_select[n] = kernels::NumSelected(budget, static_cast<int32_t>(positions.data_ptr<int64_t>()[n] + 1));
  }
  queries->num_select = at::tensor(num_select, at::kLong).to(queries->k.device());
}

int64_t NumQueriesWithin(int64_t bytes, int64_t num_q_heads, int64_t num_tokens) {
  const int64_t bytes_per_query = kFloatsPerQueryHeadAndToken * int64_t{sizeof(float)} * num_q_heads * num_tokens;
  return std::max<int64_t>(1, bytes / bytes_per_query);
}

at::Tensor ExactlyAttendSelected(QuerySet queries, const Selection& selection) {
  queries.q = queries.q.to(at::kFloat);
  return AttendSelected(queries, selection).view(queries.q.sizes());
}

}  // namespace spotlight::training
