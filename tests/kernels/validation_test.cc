// Every bad field is INVALID_ARGUMENT, named, before any work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/dense_decode.h"
#include "kernels/encode_and_append.h"
#include "kernels/pointwise.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

using ::testing::HasSubstr;

template <class Params>
struct Fault {
  std::string field;
  std::function<void(Params*)> make;
};

template <class Params>
void ExpectRefused(const Params& good, absl::Status (*operation)(const Params&),
                   const std::vector<Fault<Params>>& faults) {
  ASSERT_TRUE(operation(good).ok()) << operation(good);
  for (const auto& fault : faults) {
    Params bad = good;
    fault.make(&bad);
    const absl::Status status = operation(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(": " + fault.field));
  }
}

TEST(ValidationTest, SparseDecodeNamesTheBadField) {
  DecodeCase test(DecodeShape{});
  using P = SparseDecodeParams;
  auto* bad_length = test.arena()->Allocate<int32_t>(1);
  auto* bad_table = test.arena()->Allocate<int32_t>(16);
  *bad_length = 301;
  bad_table[2] = -5;
  ExpectRefused<P>(test.Sparse(), SparseDecode,
                   {{"num_rows", [](P* p) { p->num_rows = -1; }},
                    {"execution.device", [](P* p) { p->execution.device = static_cast<DeviceKind>(9); }},
                    {"dtype", [](P* p) { p->dtype = static_cast<DType>(7); }},
                    {"num_kv_heads", [](P* p) { p->num_kv_heads = 0; }},
                    {"num_q_heads", [](P* p) { p->num_q_heads = 7; }},
                    {"num_q_heads", [](P* p) { p->num_q_heads = 34; }},
                    {"head_dim", [](P* p) { p->head_dim = 96; }},
                    {"hash_words", [](P* p) { p->hash_words = 3; }},
                    {"num_planes", [](P* p) { p->num_planes = 5; }},
                    {"top_plane_weight", [](P* p) { p->top_plane_weight = 9; }},
                    {"softmax_scale", [](P* p) { p->softmax_scale = std::nanf(""); }},
                    {"q is null", [](P* p) { p->q = nullptr; }},
                    {"planes is null", [](P* p) { p->planes = nullptr; }},
                    {"pages.kv is null", [](P* p) { p->pages.kv = nullptr; }},
                    {"pages.kv lies", [](P* p) { p->pages.kv = static_cast<char*>(p->pages.kv) + 4; }},
                    {"pages.codes is null", [](P* p) { p->pages.codes = nullptr; }},
                    {"pages.prefix is null",
                     [](P* p) {
                       p->prefilter = true;
                       p->pages.prefix = nullptr;
                     }},
                    {"pages.num_pages", [](P* p) { p->pages.num_pages = 0; }},
                    {"page_table is null", [](P* p) { p->page_table = nullptr; }},
                    {"page_table[0][2]", [&](P* p) { p->page_table = bad_table; }},
                    {"max_pages", [](P* p) { p->max_pages = 0; }},
                    {"context_len is null", [](P* p) { p->context_len = nullptr; }},
                    {"context_len[0]", [&](P* p) { p->context_len = bad_length; }},
                    {"num_select is null", [](P* p) { p->num_select = nullptr; }},
                    {"sink_tokens", [](P* p) { p->sink_tokens = -1; }},
                    {"recent_tokens", [](P* p) { p->recent_tokens = -1; }},
                    {"max_context", [](P* p) { p->max_context = 1 << 20; }},
                    {"out is null", [](P* p) { p->out = nullptr; }},
                    {"max_select", [](P* p) { p->max_select = 0; }},
                    {"workspace is null", [](P* p) { p->execution.device = DeviceKind::kCuda; }}});
}

TEST(ValidationTest, DenseDecodeNamesTheBadField) {
  DecodeCase test(DecodeShape{});
  using P = DenseDecodeParams;
  ExpectRefused<P>(test.Dense(), DenseDecode,
                   {{"num_rows", [](P* p) { p->num_rows = -1; }},
                    {"num_kv_heads", [](P* p) { p->num_kv_heads = -2; }},
                    {"head_dim", [](P* p) { p->head_dim = 0; }},
                    {"softmax_scale", [](P* p) { p->softmax_scale = 0; }},
                    {"rows_per_table", [](P* p) { p->rows_per_table = 0; }},
                    {"max_context", [](P* p) { p->max_context = 0; }},
                    {"out is null", [](P* p) { p->out = nullptr; }},
                    {"workspace_bytes", [](P* p) {
                       p->execution.device = DeviceKind::kCuda;
                       p->workspace = reinterpret_cast<void*>(256);
                       p->workspace_bytes = 10;
                     }}});
}

TEST(ValidationTest, EncodeAndAppendNamesTheBadField) {
  alignas(256) static float memory[1 << 16] = {};
  int32_t position = 0;
  int64_t slot = 3, far_slot = 64;
  HashWeights hash;
  hash.key = {16, memory, memory, memory, memory, memory};
  hash.query = {0, nullptr, nullptr, nullptr, memory, memory};
  static uint32_t codes[64 * 4];
  static float kv[64 * 2 * 64];
  using P = EncodeAndAppendParams;
  P good;
  good.num_tokens = good.num_plane_tokens = 1;
  good.num_q_heads = good.num_kv_heads = 1;
  good.head_dim = 64;
  good.q = good.k = good.v = memory;
  good.q_stride = good.k_stride = good.v_stride = 64;
  good.inv_freq = memory;
  good.positions = &position;
  good.slots = &slot;
  good.hash = &hash;
  good.pages = {kv, codes, codes, 1};
  good.q_out = kv;
  good.planes = codes;
  good.plane_unit = kv;
  HashWeights no_skip = hash, odd_hidden = hash, half_weights = hash;
  no_skip.query.skip = nullptr;
  odd_hidden.key.hidden = 20;
  half_weights.weight_dtype = DType::kF16;
  ExpectRefused<P>(good, EncodeAndAppend,
                   {{"num_tokens", [](P* p) { p->num_tokens = -1; }},
                    {"num_plane_tokens", [](P* p) { p->num_plane_tokens = 2; }},
                    {"q_stride", [](P* p) { p->q_stride = 63; }},
                    {"k is null", [](P* p) { p->k = nullptr; }},
                    {"inv_freq is null", [](P* p) { p->inv_freq = nullptr; }},
                    {"rope_scale", [](P* p) { p->rope_scale = -1; }},
                    {"slots[0]", [&](P* p) { p->slots = &far_slot; }},
                    {"pages.prefix is null", [](P* p) { p->pages.prefix = nullptr; }},
                    {"q_out is null", [](P* p) { p->q_out = nullptr; }},
                    {"planes is null", [](P* p) { p->planes = nullptr; }},
                    {"hash.query.skip is null", [&](P* p) { p->hash = &no_skip; }},
                    {"hash.key.hidden", [&](P* p) { p->hash = &odd_hidden; }},
                    {"hash.weight_dtype", [&](P* p) { p->hash = &half_weights; }}});
}

TEST(ValidationTest, PointwiseNamesTheBadField) {
  static float memory[64] = {};
  AddRmsNormParams norm;
  norm.num_tokens = 1;
  norm.hidden = 32;
  norm.eps = 1e-5f;
  norm.x = norm.out = memory;
  norm.weight = memory + 32;
  ExpectRefused<AddRmsNormParams>(norm, AddRmsNorm,
                                  {{"num_tokens", [](AddRmsNormParams* p) { p->num_tokens = -1; }},
                                   {"dtype", [](AddRmsNormParams* p) { p->dtype = static_cast<DType>(3); }},
                                   {"hidden", [](AddRmsNormParams* p) { p->hidden = 24; }},
                                   {"eps", [](AddRmsNormParams* p) { p->eps = -1; }},
                                   {"x is null", [](AddRmsNormParams* p) { p->x = nullptr; }},
                                   {"weight is null", [](AddRmsNormParams* p) { p->weight = nullptr; }},
                                   {"out is null", [](AddRmsNormParams* p) { p->out = nullptr; }}});
  SiluMulParams silu;
  silu.num_tokens = 1;
  silu.intermediate = 16;
  silu.gate_up = memory;
  silu.out = memory + 32;
  ExpectRefused<SiluMulParams>(silu, SiluMul,
                               {{"num_tokens", [](SiluMulParams* p) { p->num_tokens = -1; }},
                                {"intermediate", [](SiluMulParams* p) { p->intermediate = 0; }},
                                {"gate_up is null", [](SiluMulParams* p) { p->gate_up = nullptr; }},
                                {"out is null", [](SiluMulParams* p) { p->out = nullptr; }}});
}

TEST(ValidationTest, DoesNothingForZeroRows) {
  EXPECT_TRUE(AddRmsNorm(AddRmsNormParams()).ok());
  EXPECT_TRUE(SiluMul(SiluMulParams()).ok());
  EXPECT_TRUE(SparseDecode(SparseDecodeParams()).ok());
  EXPECT_TRUE(DenseDecode(DenseDecodeParams()).ok());
  EXPECT_TRUE(EncodeAndAppend(EncodeAndAppendParams()).ok());
}

}  // namespace
}  // namespace spotlight::kernels::testing
