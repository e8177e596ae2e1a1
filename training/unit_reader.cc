#include "training/unit_reader.h"

#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <utility>

namespace spotlight::training {

UnitReader::UnitReader(const HashLayout& layout, int64_t head_dim, const Activations& activations,
                       const std::vector<int64_t>& queries, PhaseShift shift, at::Device device)
    : device_(device), shift_(std::move(shift)) {
  const at::Tensor &q = activations.q, &k = activations.k;
  const int64_t heads = layout.num_kv_heads, group = layout.group * layout.units_per_kv_head;
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && k.size(0) * k.size(1) == heads && k.size(3) == head_dim &&
                  q.size(0) == k.size(0) && q.size(1) == k.size(1) * group && q.size(2) == k.size(2) &&
                  q.size(3) == head_dim,
              "activations q ", q.sizes(), " and k ", k.sizes(), " are not of ", heads, " KV heads of ", group,
              " query heads of ", head_dim);
  const at::Tensor tokens = at::tensor(queries, at::kLong);
  const at::Tensor chosen = q.flatten(0, 1).index_select(1, tokens.to(q.device()));
  q_ = shift_.At(tokens.to(device)).Apply(chosen.to(device).to(at::kFloat)).unflatten(0, {heads, group});
  k_ = k.flatten(0, 1);
}

HeadBatch UnitReader::ReadHeads(int64_t begin, int64_t count) const {
  return {q_.narrow(0, begin, count), shift_.Apply(k_.narrow(0, begin, count).to(device_).to(at::kFloat))};
}

HeadBatch UnitReader::UnitsOf(const HashLayout& layout, const HeadBatch& heads) {
  if (layout.units_per_kv_head == 1) return heads;
  return {heads.q.flatten(0, 1).unsqueeze(1), heads.k.repeat_interleave(layout.units_per_kv_head, 0)};
}

}  // namespace spotlight::training
