#include "kernels/encode_and_append.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/encode_and_append.h"
#include "kernels/cpu/level.h"
#include "kernels/cuda/launchers.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

void CheckEncoder(const EncoderWeights& encoder, Validation* check) {
  check->InRange("hidden", encoder.hidden, 0, 1 << 12);
  check->That(encoder.hidden % 16 == 0, "hidden", encoder.hidden, "a multiple of 16");
  if (encoder.hidden > 0) {
    check->Aligned("w1", encoder.w1, kVectorBytes);
    check->Aligned("b1", encoder.b1, kVectorBytes);
    check->Aligned("w2", encoder.w2, kVectorBytes);
  }
  check->Aligned("b2", encoder.b2, kVectorBytes);
  check->Aligned("skip", encoder.skip, kVectorBytes);
}

void CheckHash(const EncodeAndAppendParams& params, Validation* check) {
  const HashWeights& hash = *params.hash;
  check->Within("hash.");
  check->OneOf("weight_dtype", static_cast<int>(hash.weight_dtype),
               {static_cast<int>(DType::kF32), static_cast<int>(DType::kBF16)});
  check->OneOf("hash_words", hash.hash_words, {1, 2, 4, 8});
  check->Within("hash.key.");
  CheckEncoder(hash.key, check);
  check->Within("");
  check->Aligned("pages.codes", params.pages.codes, kVectorBytes);
  check->Aligned("pages.prefix", params.pages.prefix, kVectorBytes);
  if (params.num_plane_tokens == 0) return;
  check->Within("hash.");
  check->InRange("num_planes", hash.num_planes, 1, kMaxPlanes);
  check->Positive("plane_step", hash.plane_step);
  check->Within("hash.query.");
  CheckEncoder(hash.query, check);
  check->Within("");
  if (!check->ok()) return;
  check->Planes(params.planes, hash.num_planes, hash.hash_words);
  check->Array("plane_unit", params.plane_unit);
}

// Rows of a projection begin `stride` elements apart.
void CheckStride(absl::string_view field, int64_t stride, int64_t width, DType dtype, Validation* check) {
  check->InRange(field, stride, width, INT64_MAX);
  check->That(stride % static_cast<int64_t>(kVectorBytes / SizeOf(dtype)) == 0, field, stride,
              "a multiple of 16 bytes");
}

absl::Status Validate(const EncodeAndAppendParams& params) {
  Validation check("EncodeAndAppend");
  check.Device(params.execution, params.dtype);
  check.InRange("num_plane_tokens", params.num_plane_tokens, 0, params.num_tokens);
  check.Heads(params.num_q_heads, params.num_kv_heads, params.head_dim);
  if (!check.ok()) return check.status();
  const int64_t q_width = int64_t{params.num_q_heads} * params.head_dim;
  const int64_t kv_width = int64_t{params.num_kv_heads} * params.head_dim;
  check.Aligned("q", params.q, kVectorBytes);
  check.Aligned("k", params.k, kVectorBytes);
  check.Aligned("v", params.v, kVectorBytes);
  CheckStride("q_stride", params.q_stride, q_width, params.dtype, &check);
  CheckStride("k_stride", params.k_stride, kv_width, params.dtype, &check);
  CheckStride("v_stride", params.v_stride, kv_width, params.dtype, &check);
  if (params.q_bias != nullptr) check.Aligned("q_bias", params.q_bias, kVectorBytes);
  if (params.k_bias != nullptr) check.Aligned("k_bias", params.k_bias, kVectorBytes);
  if (params.v_bias != nullptr) check.Aligned("v_bias", params.v_bias, kVectorBytes);
  check.Array("inv_freq", params.inv_freq);
  check.Positive("rope_scale", params.rope_scale);
  check.Array("positions", params.positions);
  check.Array("slots", params.slots);
  check.Pages(params.execution, params.dtype, params.pages);
  check.InRange("pages.num_pages", params.pages.num_pages, 1, INT32_MAX);
  check.Aligned("q_out", params.q_out, kVectorBytes);
  if (params.start_ns != nullptr) check.Array("start_ns", params.start_ns);
  if (params.hash != nullptr) CheckHash(params, &check);
  if (!check.ok() || params.execution.device != DeviceKind::kCpu) return check.status();

  const int64_t num_slots = int64_t{params.pages.num_pages} * kPageTokens;
  for (int32_t t = 0; t < params.num_tokens; ++t) {
    if (params.slots[t] < num_slots) continue;
    check.That(false, absl::StrCat("slots[", t, "]"), params.slots[t],
               absl::StrCat("less than pages.num_pages * ", kPageTokens, " = ", num_slots));
    break;
  }
  return check.status();
}

}  // namespace

absl::Status EncodeAndAppend(const EncodeAndAppendParams& params) {
  Validation check("EncodeAndAppend");
  check.InRange("num_tokens", params.num_tokens, 0, INT32_MAX);
  if (!check.ok() || params.num_tokens == 0) return check.status();
  if (absl::Status status = Validate(params); !status.ok()) return status;
  if (params.execution.device == DeviceKind::kCuda) {
    return CudaStatus("EncodeAndAppend", cuda::EncodeAndAppend(params));
  }
  cpu::EncodeAndAppend(params, cpu::BestLevel());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
