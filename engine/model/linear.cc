#include "engine/model/linear.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/ops/execution.h"
#include "engine/ops/pointwise.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {
namespace {

// The number of rows that oneDNN chooses its weight layout for: decode of a small batch, which is bound by reading
// them.
constexpr int64_t kPackedRows = 1;
// fp32: the one number of rows of every call.
constexpr int64_t kExactRows = 16;

using ReorderSignature = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using PointwiseSignature = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                      std::string_view, c10::List<std::optional<at::Scalar>>,
                                      std::optional<std::string_view>);

// LibTorch offers its prepacked linear layers through the dispatcher only.
at::Tensor Reorder(const at::Tensor& weight, int64_t rows) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "").typed<ReorderSignature>();
  return op.call(weight, rows);
}

at::Tensor PackedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<PointwiseSignature>();
  return op.call(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, "none",
                 c10::List<std::optional<at::Scalar>>(), "");
}

absl::StatusOr<at::Tensor> Normed(const RmsNorm& norm, ResidualStream* stream) {
  auto normed = AddRmsNorm(stream->x, stream->update, norm.weight, norm.eps);
  stream->update.reset();
  return normed;
}

}  // namespace

bool Linear::HasFastBf16() {
  static const bool supported = [] {
    const auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    return op.has_value() && op->typed<bool()>().call();
  }();
  return supported;
}

bool Linear::MultipliesFp8(at::Device device) {
  const cudaDeviceProp* const properties = at::cuda::getDeviceProperties(device.index());
  return properties->major > 8 || (properties->major == 8 && properties->minor >= 9);
}

Linear::Linear(const at::Tensor& weight, const at::Tensor& bias, Quantization quantization)
    : bias_(bias), num_out_(weight.size(0)) {
  if (quantization == Quantization::kFp8) {
    Fp8Matrix rounded = RoundToFp8(weight.contiguous());
    if (weight.is_cpu()) {
      *this = Linear(Widen(rounded, weight.scalar_type()), bias);
    } else {
      fp8_ = std::move(rounded);
    }
    return;
  }
  const bool exact = weight.scalar_type() == at::kFloat;
  prepacked_ = weight.is_cpu() && (exact || (weight.scalar_type() == at::kBFloat16 && HasFastBf16()));
  weight_ = prepacked_ ? Reorder(weight.contiguous(), exact ? kExactRows : kPackedRows) : weight.contiguous();
}

bool Linear::TakesFewRows(const at::Tensor& x) const {
  return x.is_cuda() && kernels::SmallLinearSupported(ToKernelDType(x.scalar_type()), fp8_.values.defined(), x.size(0),
                                                      x.size(1), num_out_);
}

bool Linear::Fuses(const at::Tensor& x) const {
  return TakesFewRows(x) && !fp8_.values.defined();
}

bool Linear::FusesNorm(const ResidualStream& stream) const {
  return !stream.update.defined() && Fuses(stream.x) &&
         kernels::SmallLinearTakesNorm(ToKernelDType(stream.x.scalar_type()), /*fp8=*/false, stream.x.size(1));
}

at::Tensor Linear::FewRows(const at::Tensor& x, const RmsNorm* norm, kernels::SmallLinearResult result,
                           at::Tensor out) const {
  const at::Tensor rows = x.contiguous();
  const int64_t width = result == kernels::SmallLinearResult::kSiluMul ? num_out_ / 2 : num_out_;
  if (!out.defined()) out = at::empty({x.size(0), width}, x.options());
  kernels::SmallLinearParams params;
  params.execution = ExecutionOn(x.device());
  params.dtype = ToKernelDType(x.scalar_type());
  params.num_rows = static_cast<int32_t>(x.size(0));
  params.num_in = static_cast<int32_t>(x.size(1));
  params.num_out = static_cast<int32_t>(num_out_);
  params.x = rows.data_ptr();
  if (fp8_.values.defined()) {
    params.weight = fp8_.values.data_ptr();
    params.weight_scale = fp8_.scale.data_ptr<float>();
  } else {
    params.weight = weight_.data_ptr();
  }
  params.bias = bias_.defined() ? bias_.data_ptr() : nullptr;
  if (norm != nullptr) {
    params.norm_weight = norm->weight.data_ptr();
    params.norm_eps = static_cast<float>(norm->eps);
  }
  params.result = result;
  params.out = out.data_ptr();
  const absl::Status status = kernels::SmallLinear(params);
  TORCH_CHECK(status.ok(), std::string(status.message()));
  return out;
}

at::Tensor Linear::ManyRowsFp8(const at::Tensor& x) const {
  const std::optional<at::Tensor> bias = bias_.defined() ? std::optional<at::Tensor>(bias_) : std::nullopt;
  if (!MultipliesFp8(x.device()) || x.size(1) % 16 != 0 || num_out_ % 16 != 0) {
    return at::linear(x, Widen(fp8_, x.scalar_type()), bias);
  }
  const Fp8Matrix rows = RoundToFp8(x.contiguous());
  // Not the fast accumulation, whose sums have 14 bits.
  return at::_scaled_mm(rows.values, fp8_.values.t(), rows.scale.unsqueeze(1), fp8_.scale.unsqueeze(0), bias,
                        /*scale_result=*/std::nullopt, x.scalar_type(), /*use_fast_accum=*/false);
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (TakesFewRows(x)) return FewRows(x, nullptr, kernels::SmallLinearResult::kStore, at::Tensor());
  if (fp8_.values.defined()) return ManyRowsFp8(x);
  if (!prepacked_) return at::linear(x, weight_, bias_.defined() ? std::optional<at::Tensor>(bias_) : std::nullopt);
  if (x.scalar_type() != at::kFloat) return PackedLinear(x, weight_, bias_);
  const int64_t rows = x.size(0);
  at::Tensor out = at::empty({rows, num_out_}, x.options());
  for (int64_t begin = 0; begin < rows; begin += kExactRows) {
    const int64_t count = std::min(kExactRows, rows - begin);
    at::Tensor tile = x.narrow(0, begin, count);
    if (count < kExactRows) tile = at::constant_pad_nd(tile, {0, 0, 0, kExactRows - count});
    out.narrow(0, begin, count).copy_(PackedLinear(tile, weight_, bias_).narrow(0, 0, count));
  }
  return out;
}

absl::StatusOr<at::Tensor> Linear::OfNorm(const RmsNorm& norm, ResidualStream* stream) const {
  if (FusesNorm(*stream)) return FewRows(stream->x, &norm, kernels::SmallLinearResult::kStore, at::Tensor());
  const auto normed = Normed(norm, stream);
  if (!normed.ok()) return normed.status();
  return (*this)(*normed);
}

absl::StatusOr<at::Tensor> Linear::SiluMulOfNorm(const RmsNorm& norm, ResidualStream* stream) const {
  if (FusesNorm(*stream)) return FewRows(stream->x, &norm, kernels::SmallLinearResult::kSiluMul, at::Tensor());
  const auto normed = Normed(norm, stream);
  if (!normed.ok()) return normed.status();
  if (Fuses(*normed)) return FewRows(*normed, nullptr, kernels::SmallLinearResult::kSiluMul, at::Tensor());
  return SiluMul((*this)(*normed));
}

void Linear::AddTo(const at::Tensor& x, ResidualStream* stream) const {
  if (Fuses(x)) {
    FewRows(x, nullptr, kernels::SmallLinearResult::kAdd, stream->x);
  } else {
    stream->update = (*this)(x);
  }
}

}  // namespace spotlight::engine
