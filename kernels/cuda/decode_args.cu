#include "kernels/cuda/decode_args.h"

namespace spotlight::kernels::cuda {
namespace {

DecodeShared LayOutShared(int inputs, int hidden, int bits, int head_dim, int rows, bool with_low) {
  const int tiles = CeilDiv(hidden / 16, kParts);
  const int chunks = CeilDiv(inputs / 16, kChunkTiles);
  DecodeShared at = {};
  const int slices = CeilDiv(inputs / 16, kParts);
  at.skip = tiles * inputs * 32;
  at.w2 = at.skip + slices * bits * 32;
  at.b1 = at.w2 + tiles * bits * 32;
  at.b2 = at.b1 + tiles * 32;
  at.bias = at.b2 + bits * 2;
  at.rows = at.bias + inputs * 2;
  at.low_rows = at.rows + rows * (inputs + 8) * 2;
  at.cosines = at.low_rows + (with_low ? rows * (inputs + 8) * 2 : 0);
  at.sines = at.cosines + rows * head_dim / 2 * 4;
  at.products = at.sines + rows * head_dim / 2 * 4;
  at.hidden = at.products + chunks * tiles * 16 * kPassTokens * 4;
  at.low_hidden = at.hidden + kPassTokens * (tiles * 16 + 8) * 2;
  at.received = at.low_hidden + kPassTokens * (tiles * 16 + 8) * 2;
  at.bytes = at.received + kParts * bits * 4;
  return at;
}

DecodeSide SideOf(const EncodeAndAppendParams& params, const EncoderWeights& encoder, bool is_query, int rows) {
  DecodeSide side = {};
  side.w1 = static_cast<const __nv_bfloat16*>(encoder.w1);
  side.skip = static_cast<const __nv_bfloat16*>(encoder.skip);
  side.w2 = static_cast<const __nv_bfloat16*>(encoder.w2);
  side.b1 = static_cast<const __nv_bfloat16*>(encoder.b1);
  side.b2 = static_cast<const __nv_bfloat16*>(encoder.b2);
  side.bias = is_query ? params.q_bias : params.k_bias;
  side.x = is_query ? params.q : params.k;
  side.x_stride = is_query ? params.q_stride : params.k_stride;
  side.inputs = is_query ? params.num_q_heads / params.num_kv_heads * params.head_dim : params.head_dim;
  side.hidden = encoder.hidden;
  side.at = LayOutShared(side.inputs, side.hidden, 32 * params.hash->hash_words, params.head_dim, rows,
                         params.dtype == DType::kF16);
  return side;
}

}  // namespace

DecodeArgs DecodeArgsOf(const EncodeAndAppendParams& params, int rows) {
  DecodeArgs args = {};
  args.sides[0] = SideOf(params, params.hash->query, true, rows);
  args.sides[1] = SideOf(params, params.hash->key, false, rows);
  args.positions = params.positions;
  args.inv_freq = params.inv_freq;
  args.slots = params.slots;
  args.rope_scale = params.rope_scale;
  args.plane_step = params.hash->plane_step;
  args.num_rows = params.num_plane_tokens;
  args.num_kv_heads = params.num_kv_heads;
  args.half_log2 = params.head_dim == 128 ? 6 : 5;
  args.num_planes = params.hash->num_planes;
  args.v = params.v;
  args.v_bias = params.v_bias;
  args.v_stride = params.v_stride;
  args.q_out = params.q_out;
  args.kv = params.pages.kv;
  args.kv_scale = params.pages.kv_scale;
  args.codes = params.pages.codes;
  args.prefix = params.pages.prefix;
  args.planes = params.planes;
  args.plane_unit = params.plane_unit;
  args.start_ns = params.start_ns;
  return args;
}

}  // namespace spotlight::kernels::cuda
