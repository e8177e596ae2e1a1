#include "benchmarks/kernels/verification.h"

#include <cmath>
#include <cstring>
#include <future>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/kernels/failure.h"
#include "kernels/reference/encode_and_append.h"
#include "kernels/reference/sparse_decode.h"

namespace spotlight::benchmarks {
namespace {

constexpr double kTolerance = 5e-3;     // relative norm, bf16 against double
constexpr double kBitTolerance = 5e-3;  // share of bits and levels that rounding may turn
constexpr int64_t kDecodeTokens = 8, kPrefillTokens = 256;

using HeadOfRow = std::pair<int64_t, int64_t>;  // row, KV head

std::vector<HeadOfRow> CheckedHeads(const DecodeStep& step) {
  return {{0, 0}, {step.num_rows() - 1, step.layer().shape().num_kv_heads - 1}};
}

double RelativeNorm(const at::Tensor& x, const at::Tensor& expected) {
  const at::Tensor reference = expected.to(at::kDouble);
  const double difference = (x.to(at::kDouble) - reference).norm().item<double>() / reference.norm().item<double>();
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

void Require(bool holds, const std::string& what, const DecodeStep& step) {
  if (holds) return;
  Fail(what + " is wrong at " + step.layer().shape().name + ", batch " + std::to_string(step.num_rows()) +
       ", context " + std::to_string(step.context_len()));
}

// Attention of the row's group of queries [G, D] to `tokens` [n] int64, in double.
at::Tensor Attend(const DecodeStep& step, const HeadOfRow& head, const at::Tensor& tokens) {
  const Shape& shape = step.layer().shape();
  const at::Tensor page =
      step.page_table().select(0, head.first).index_select(0, at::div(tokens, kernels::kPageTokens, "floor"));
  const at::Tensor entry = (page.to(at::kLong) * shape.num_kv_heads + head.second) * kernels::kPageTokens +
                           at::remainder(tokens, kernels::kPageTokens);
  const at::Tensor kv = step.layer().kv().view({-1, 2, shape.head_dim}).index_select(0, entry).to(at::kDouble);
  const at::Tensor q = step.q()
                           .select(0, head.first)
                           .slice(0, head.second * shape.group(), (head.second + 1) * shape.group())
                           .to(at::kDouble);
  const at::Tensor logits = at::matmul(q, kv.select(1, 0).t()) * step.softmax_scale();
  return at::matmul(at::softmax(logits, 1), kv.select(1, 1));
}

at::Tensor GroupOutput(const DecodeStep& step, const at::Tensor& out, const HeadOfRow& head) {
  const int64_t group = step.layer().shape().group();
  return out.view({step.num_rows(), -1, out.size(-1)})
      .select(0, head.first)
      .slice(0, head.second * group, (head.second + 1) * group);
}

// The reference's choice from the device's codes and planes.
std::vector<int32_t> ReferenceSelection(const DecodeStep& step, const at::Tensor& planes, const at::Tensor& codes,
                                        int64_t kv_head, bool prefilter) {
  std::vector<int32_t> page_table(codes.size(0));
  std::iota(page_table.begin(), page_table.end(), 0);
  const int32_t context_len = step.context_len(), num_select = step.num_select();
  kernels::SparseDecodeParams params;
  params.num_rows = 1;
  params.num_kv_heads = step.layer().shape().num_kv_heads;
  params.hash_words = DeviceLayer::kHashWords;
  params.num_planes = DeviceLayer::kNumPlanes;
  params.top_plane_weight = 1 << (DeviceLayer::kNumPlanes - 1);
  params.prefilter = prefilter;
  params.planes = reinterpret_cast<const uint32_t*>(planes.data_ptr());
  params.pages.codes = reinterpret_cast<uint32_t*>(codes.data_ptr());
  params.page_table = page_table.data();
  params.max_pages = static_cast<int32_t>(page_table.size());
  params.context_len = &context_len;
  params.num_select = &num_select;
  return kernels::reference::SelectTokens(params, 0, static_cast<int32_t>(kv_head));
}

void VerifyOneForm(DecodeStep* step, bool prefilter) {
  const std::string name = prefilter ? "prefiltered sparse_attention" : "sparse_attention";
  step->out().fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor selected = step->SparseAttentionSelecting(prefilter);
  const at::TensorOptions indices = selected.options().dtype(at::kLong);
  const int32_t recent_begin = step->context_len() - kernels::kRecentTokens;

  std::vector<std::future<std::vector<int32_t>>> expected;
  for (const HeadOfRow& head : CheckedHeads(*step)) {
    const at::Tensor codes =
        step->layer().codes().index_select(0, step->page_table().select(0, head.first)).to(at::kCPU).contiguous();
    const at::Tensor planes = step->planes().select(0, head.first).to(at::kCPU).contiguous();
    expected.push_back(std::async(std::launch::async,
                                  [=] { return ReferenceSelection(*step, planes, codes, head.second, prefilter); }));
  }
  const std::vector<HeadOfRow> heads = CheckedHeads(*step);
  for (size_t i = 0; i < heads.size(); ++i) {
    const at::Tensor chosen = selected.select(0, heads[i].first).select(0, heads[i].second);
    const at::Tensor on_host = chosen.to(at::kCPU);
    const std::vector<int32_t> best = expected[i].get();
    Require(static_cast<int64_t>(best.size()) == on_host.numel() &&
                std::memcmp(best.data(), on_host.data_ptr(), on_host.nbytes()) == 0,
            name + "'s selection", *step);
    const at::Tensor tokens = at::cat({at::arange(kernels::kSinkTokens, indices), chosen.to(at::kLong),
                                       at::arange(recent_begin, step->context_len(), indices)});
    const at::Tensor out = GroupOutput(*step, step->out(), heads[i]);
    Require(RelativeNorm(out, Attend(*step, heads[i], tokens)) <= kTolerance, name + "'s output", *step);
  }
  // What is timed writes no selection, and must do the same.
  const at::Tensor expected_out = step->out().clone();
  step->out().fill_(std::numeric_limits<float>::quiet_NaN());
  step->SparseAttention(prefilter);
  Require(at::equal(step->out(), expected_out), name + "'s output without a selection", *step);
}

// Bits set in x [..., words] int32, on the host.
int64_t CountBits(const at::Tensor& x) {
  const at::Tensor words = x.contiguous();
  int64_t bits = 0;
  for (int64_t i = 0; i < words.numel(); ++i) {
    bits += __builtin_popcount(static_cast<uint32_t>(words.data_ptr<int32_t>()[i]));
  }
  return bits;
}

// Appends `num_tokens` random tokens on the device and by the reference on the host; compares everything written.
void VerifyCall(DeviceLayer* layer, int64_t num_tokens, int64_t num_plane_tokens) {
  const Shape& shape = layer->shape();
  const at::TensorOptions on_device = layer->kv().options();
  const at::Tensor q = at::randn({num_tokens, shape.num_q_heads, shape.head_dim}, on_device);
  const at::Tensor k = at::randn({num_tokens, shape.num_kv_heads, shape.head_dim}, on_device);
  const at::Tensor v = at::randn_like(k), q_out = at::empty_like(q);
  const at::Tensor positions = at::arange(1000, 1000 + num_tokens, on_device.dtype(at::kInt));
  const at::Tensor slots = layer->Slots(0, num_tokens);
  const at::Tensor planes = at::zeros(
      {num_tokens, shape.num_kv_heads, DeviceLayer::kNumPlanes, DeviceLayer::kHashWords}, on_device.dtype(at::kInt));
  const at::Tensor plane_unit = at::zeros({num_tokens, shape.num_kv_heads}, on_device.dtype(at::kFloat));
  layer->kv().zero_();
  layer->codes().zero_();
  kernels::EncodeAndAppendParams params = layer->EncodeParams(q, k, v, positions, slots, q_out);
  params.num_plane_tokens = static_cast<int32_t>(num_plane_tokens);
  params.planes = reinterpret_cast<uint32_t*>(planes.data_ptr());
  params.plane_unit = plane_unit.data_ptr<float>();
  Check(kernels::EncodeAndAppend(params));

  // The same call with every pointer to host memory.
  std::vector<at::Tensor> kept;
  const auto host = [&kept](const at::Tensor& tensor) {
    kept.push_back(tensor.to(at::kCPU).contiguous());
    return kept.back();
  };
  const at::Tensor host_kv = at::zeros_like(host(layer->kv())), host_codes = at::zeros_like(host(layer->codes()));
  const at::Tensor host_prefix = at::zeros_like(host_codes.select(3, 0).contiguous());
  const at::Tensor host_q_out = at::zeros_like(host(q)), host_planes = at::zeros_like(host(planes));
  const kernels::HashWeights hash = layer->HostHash(&kept);
  const at::Tensor inv_freq = host(layer->inv_freq());
  params.q = host(q).data_ptr();
  params.k = host(k).data_ptr();
  params.v = host(v).data_ptr();
  params.inv_freq = inv_freq.data_ptr<float>();
  params.positions = host(positions).data_ptr<int32_t>();
  params.slots = host(slots).data_ptr<int64_t>();
  params.hash = &hash;
  params.pages.kv = host_kv.data_ptr();
  params.pages.codes = reinterpret_cast<uint32_t*>(host_codes.data_ptr());
  params.pages.prefix = reinterpret_cast<uint32_t*>(host_prefix.data_ptr());
  params.q_out = host_q_out.data_ptr();
  params.planes = reinterpret_cast<uint32_t*>(host_planes.data_ptr());
  params.plane_unit = host(plane_unit).data_ptr<float>();
  kernels::reference::EncodeAndAppend(params);

  const std::string where =
      " of encode_and_append is wrong: " + shape.name + ", " + std::to_string(num_tokens) + " tokens";
  if (!(RelativeNorm(q_out.to(at::kCPU), host_q_out) <= kTolerance)) Fail("q_out" + where);
  if (!(RelativeNorm(layer->kv().to(at::kCPU), host_kv) <= kTolerance)) Fail("pages.kv" + where);
  const int64_t bits = num_tokens * shape.num_kv_heads * 32 * DeviceLayer::kHashWords;
  const at::Tensor turned = at::bitwise_xor(layer->codes().to(at::kCPU), host_codes);
  if (CountBits(turned) > kBitTolerance * bits) Fail("pages.codes" + where);
  at::Tensor levels = at::bitwise_xor(planes.to(at::kCPU), host_planes);
  levels = at::bitwise_or(at::bitwise_or(levels.select(2, 0), levels.select(2, 1)),
                          at::bitwise_or(levels.select(2, 2), levels.select(2, 3)));
  if (CountBits(levels) > kBitTolerance * bits) Fail("planes" + where);
}

}  // namespace

void VerifyEncoding(const Shape& shape) {
  DeviceLayer layer(shape, kPrefillTokens);
  VerifyCall(&layer, kDecodeTokens, kDecodeTokens);
  VerifyCall(&layer, kPrefillTokens, 0);
}

void VerifySparse(DecodeStep* step) {
  if (step->num_select() == 0) Fail("the context is too short to be sparse");
  for (const bool prefilter : {false, true}) VerifyOneForm(step, prefilter);
}

void VerifyDense(DecodeStep* step, FullAttention* full) {
  step->out().fill_(std::numeric_limits<float>::quiet_NaN());
  step->Encode();
  step->Dense();
  full->Run();
  const at::Tensor tokens = at::arange(step->context_len(), step->planes().options().dtype(at::kLong));
  for (const HeadOfRow& head : CheckedHeads(*step)) {
    const at::Tensor expected = Attend(*step, head, tokens);
    Require(RelativeNorm(GroupOutput(*step, step->out(), head), expected) <= kTolerance, "dense_decode's output",
            *step);
    Require(RelativeNorm(GroupOutput(*step, full->out(), head), expected) <= kTolerance, "cuDNN's output", *step);
  }
}

}  // namespace spotlight::benchmarks
