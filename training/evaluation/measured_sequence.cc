#include "training/evaluation/measured_sequence.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "training/evaluation/query_set.h"

namespace spotlight::training {
namespace {

constexpr int64_t kCpuBytes = int64_t{1} << 30, kGpuBytes = int64_t{4} << 30;

// The attention of a pass that measures as it goes.
class MeasuringAttention {
 public:
  MeasuringAttention(absl::Span<Selector* const> selectors, const MeasureOptions& options,
                     const std::vector<int64_t>& positions, const std::function<void(int64_t)>& layer_done,
                     MeasuredSequence* out)
      : selectors_(selectors), options_(options), positions_(positions), layer_done_(layer_done), out_(*out) {}

  absl::StatusOr<at::Tensor> operator()(const AttentionInput& input) {
    const auto layer = std::find(options_.layers.begin(), options_.layers.end(), input.layer);
    if (layer != options_.layers.end()) {
      const int64_t index = layer - options_.layers.begin();
      if (absl::Status status = Measure(input, index); !status.ok()) return status;
      if (layer_done_ != nullptr) layer_done_(index + 1);
    }
    return DenseAttention(input);
  }

 private:
  absl::Status Measure(const AttentionInput& input, int64_t layer) {
    if (!values_.defined()) Allocate(input);
    int64_t bytes = options_.max_bytes;
    if (bytes <= 0) bytes = input.k.is_cpu() ? kCpuBytes : kGpuBytes;
    const auto count = static_cast<int64_t>(positions_.size());
    const int64_t chunk = NumQueriesWithin(bytes, input.q.size(0), input.k.size(1));
    for (int64_t begin = 0; begin < count; begin += chunk) {
      const int64_t queries = std::min(chunk, count - begin);
      if (absl::Status status = MeasureChunk(input, layer, begin, queries); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status MeasureChunk(const AttentionInput& input, int64_t layer, int64_t begin, int64_t count) {
    kernels::Budget budget;
    QuerySet queries = QueriesAt(input, absl::MakeConstSpan(positions_).subspan(begin, count), budget);
    for (size_t b = 0; b < options_.budgets.size(); ++b) {
      budget.ratio = options_.budgets[b];
      SetBudget(budget, &queries);
      const ExactAttention exact = ExactAttentionOf(queries);
      for (size_t s = 0; s < selectors_.size(); ++s) {
        const auto selection = selectors_[s]->Select(queries);
        if (!selection.ok()) return selection.status();
        values_[s][b][layer].narrow(-1, begin, count).copy_(MeasureSelection(queries, exact, *selection));
      }
    }
    return absl::OkStatus();
  }

  void Allocate(const AttentionInput& input) {
    out_.num_selectors = static_cast<int64_t>(selectors_.size());
    out_.num_budgets = static_cast<int64_t>(options_.budgets.size());
    out_.num_layers = static_cast<int64_t>(options_.layers.size());
    out_.num_kv_heads = input.k.size(0);
    out_.num_queries = static_cast<int64_t>(positions_.size());
    const std::vector<int64_t> shape = {out_.num_selectors, out_.num_budgets,  out_.num_layers,
                                        kNumMeasures,       out_.num_kv_heads, out_.num_queries};
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    out_.values.resize(size);
    values_ = at::from_blob(out_.values.data(), shape, at::TensorOptions().dtype(at::kFloat));
  }

  const absl::Span<Selector* const> selectors_;
  const MeasureOptions& options_;
  const std::vector<int64_t>& positions_;
  const std::function<void(int64_t)>& layer_done_;
  MeasuredSequence& out_;
  at::Tensor values_;  // a view of out_.values
};

}  // namespace

absl::StatusOr<MeasuredSequence> MeasureSequence(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                                 absl::Span<Selector* const> selectors, const MeasureOptions& options,
                                                 const std::function<void(int64_t)>& layer_done) {
  const auto tokens = static_cast<int64_t>(token_ids.size());
  const std::vector<int64_t> positions = DrawQueryPositions(tokens, options.num_queries, options.seed);
  MeasuredSequence measured;
  measured.positions = positions;
  MeasuringAttention attention(selectors, options, positions, layer_done, &measured);
  const auto attend = [&](const AttentionInput& input) { return attention(input); };
  auto states = model.Run(token_ids, attend, tokens - 1, tokens);
  if (!states.ok()) return states.status();
  return measured;
}

}  // namespace spotlight::training
