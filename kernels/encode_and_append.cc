#include "kernels/encode_and_append.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/encode_and_append.h"
#include "kernels/cpu/level.h"
#include "kernels/cuda/launchers.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

void CheckEncoder(absl::string_view name, const EncoderWeights& encoder, Validation* check) {
  const auto field = [&](absl::string_view member) { return absl::StrCat("hash.", name, ".", member); };
  check->InRange(field("hidden"), encoder.hidden, 0, 1 << 12);
  check->That(encoder.hidden % 16 == 0, field("hidden"), encoder.hidden, "a multiple of 16");
  if (encoder.hidden > 0) {
    check->NotNull(field("w1"), encoder.w1);
    check->NotNull(field("b1"), encoder.b1);
    check->NotNull(field("w2"), encoder.w2);
  }
  check->NotNull(field("b2"), encoder.b2);
  check->NotNull(field("skip"), encoder.skip);
}

void CheckHash(const EncodeAndAppendParams& params, Validation* check) {
  const HashWeights& hash = *params.hash;
  check->OneOf("hash.weight_dtype", static_cast<int>(hash.weight_dtype),
               {static_cast<int>(DType::kF32), static_cast<int>(DType::kBF16)});
  check->OneOf("hash.hash_words", hash.hash_words, {1, 2, 4, 8});
  CheckEncoder("key", hash.key, check);
  check->Aligned("pages.codes", params.pages.codes, 16);
  check->NotNull("pages.prefix", params.pages.prefix);
  if (params.num_plane_tokens == 0) return;
  check->InRange("hash.num_planes", hash.num_planes, 1, kMaxPlanes);
  check->Positive("hash.plane_step", hash.plane_step);
  CheckEncoder("query", hash.query, check);
  check->NotNull("planes", params.planes);
  check->NotNull("plane_unit", params.plane_unit);
}

absl::Status Validate(const EncodeAndAppendParams& params) {
  Validation check("EncodeAndAppend");
  check.Device(params.execution, params.dtype);
  check.InRange("num_plane_tokens", params.num_plane_tokens, 0, params.num_tokens);
  check.Heads(params.num_q_heads, params.num_kv_heads, params.head_dim);
  check.NotNull("q", params.q);
  check.NotNull("k", params.k);
  check.NotNull("v", params.v);
  const int64_t kv_width = int64_t{params.num_kv_heads} * params.head_dim;
  check.InRange("q_stride", params.q_stride, int64_t{params.num_q_heads} * params.head_dim, INT64_MAX);
  check.InRange("k_stride", params.k_stride, kv_width, INT64_MAX);
  check.InRange("v_stride", params.v_stride, kv_width, INT64_MAX);
  check.NotNull("inv_freq", params.inv_freq);
  check.Positive("rope_scale", params.rope_scale);
  check.NotNull("positions", params.positions);
  check.NotNull("slots", params.slots);
  check.Aligned("pages.kv", params.pages.kv, 16);
  check.InRange("pages.num_pages", params.pages.num_pages, 1, INT32_MAX);
  check.NotNull("q_out", params.q_out);
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
