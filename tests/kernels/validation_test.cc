// Every bad field is INVALID_ARGUMENT, named, before any work and without a launch: on a machine without a GPU a launch
// would be INTERNAL.
#include <gtest/gtest.h>

#include "kernels/dense_decode.h"
#include "kernels/encode_and_append.h"
#include "kernels/pointwise.h"
#include "kernels/retrieval_quality.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/decode_faults.h"

namespace spotlight::kernels::testing {
namespace {

template <class P>
std::vector<Fault<P>> DecodeFaults() {
  return Concat<P>(RowFaults<P>(), {Null("out", &P::out), Shifted("out", &P::out, 2)});
}

TEST(ValidationTest, SparseDecodeNamesTheBadField) {
  DecodeCase test(DecodeShape{});
  using P = SparseDecodeParams;
  P good = test.Sparse();
  ASSERT_TRUE(SparseDecode(good).ok()) << SparseDecode(good);
  good.workspace_bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, good.num_rows, good.max_context,
                                                    good.num_q_heads, good.num_kv_heads, good.head_dim);
  good.workspace = reinterpret_cast<void*>(4096);
  ASSERT_GT(good.workspace_bytes, 1);
  auto faults = Concat<P>(DecodeFaults<P>(),
                          {Set("hash_words", &P::hash_words, 3),
                           Set("hash_words", &P::hash_words, 0),
                           Set("hash_words", &P::hash_words, 16),
                           Set("num_planes", &P::num_planes, 0),
                           Set("num_planes", &P::num_planes, 5),
                           Set("num_planes", &P::num_planes, -1),
                           Set("top_plane_weight", &P::top_plane_weight, 9),
                           Set("top_plane_weight", &P::top_plane_weight, 0),
                           Set("top_plane_weight", &P::top_plane_weight, -8),
                           {"top_plane_weight = 2",
                            [](P* p) {
                              p->num_planes = 1;
                              p->top_plane_weight = 2;
                            }},
                           Null("planes", &P::planes),
                           Shifted("planes", &P::planes, 8),
                           {"planes lies 4",  // of every row and head: 8 bytes
                            [](P* p) {
                              p->hash_words = 2;
                              p->num_planes = 1;
                              p->top_plane_weight = 1;
                              p->planes += 1;
                            }},
                           {"pages.codes is null", [](P* p) { p->pages.codes = nullptr; }},
                           {"pages.codes lies 4", [](P* p) { p->pages.codes += 1; }},
                           {"pages.prefix is null",
                            [](P* p) {
                              p->prefilter = true;
                              p->pages.prefix = nullptr;
                            }},
                           {"pages.prefix lies 8",
                            [](P* p) {
                              p->prefilter = true;
                              p->pages.prefix += 2;
                            }},
                           Null("num_select", &P::num_select),
                           Shifted("num_select", &P::num_select, 2),
                           Set("sink_tokens", &P::sink_tokens, -1),
                           Set("sink_tokens", &P::sink_tokens, INT32_MAX),
                           Set("recent_tokens", &P::recent_tokens, -1),
                           Set("recent_tokens", &P::recent_tokens, INT32_MAX),
                           Shifted("selected", &P::selected, 2),
                           Set("max_select", &P::max_select, 0),
                           Set("max_select", &P::max_select, -1),
                           {"max_select = -5",
                            [](P* p) {
                              p->selected = nullptr;
                              p->max_select = -5;
                            }},
                           Shifted("num_selected", &P::num_selected, 2),
                           {"stage_seconds lies 4", [](P* p) {
                              p->stage_seconds = reinterpret_cast<SparseDecodeStages*>(static_cast<char*>(p->out) + 4);
                            }}});
  const std::vector<Fault<P>> contents = ContentFaults<P>(test.arena());
  const ArenaCopy before(*test.arena());
  ExpectRefused(good, SparseDecode, Concat(faults, WorkspaceFaults<P>()), DeviceKind::kCuda);
  ExpectRefused(good, SparseDecode, Concat(faults, contents), DeviceKind::kCpu);
  EXPECT_TRUE(before.EqualsOutside(*test.arena(), {}));
}

TEST(ValidationTest, DenseDecodeNamesTheBadField) {
  DecodeCase test(DecodeShape{});
  using P = DenseDecodeParams;
  P good = test.Dense();
  ASSERT_TRUE(DenseDecode(good).ok()) << DenseDecode(good);
  good.workspace_bytes = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, good.num_rows, good.max_context, good.num_q_heads,
                                                   good.num_kv_heads, good.head_dim);
  good.workspace = reinterpret_cast<void*>(4096);
  ASSERT_GT(good.workspace_bytes, 1);
  const auto faults = Concat<P>(
      DecodeFaults<P>(), {Set("rows_per_table", &P::rows_per_table, 0), Set("rows_per_table", &P::rows_per_table, -1)});
  const std::vector<Fault<P>> contents = ContentFaults<P>(test.arena());
  const ArenaCopy before(*test.arena());
  ExpectRefused(good, DenseDecode, Concat(faults, WorkspaceFaults<P>()), DeviceKind::kCuda);
  ExpectRefused(good, DenseDecode, Concat(faults, contents), DeviceKind::kCpu);
  EXPECT_TRUE(before.EqualsOutside(*test.arena(), {}));
}

TEST(ValidationTest, DecodeTakesWhatItMayNotNeed) {
  DecodeCase test(DecodeShape{});
  SparseDecodeParams sparse = test.Sparse();
  sparse.selected = nullptr;
  sparse.num_selected = nullptr;
  sparse.max_select = 0;
  sparse.pages.prefix = nullptr;  // no prefilter
  EXPECT_TRUE(SparseDecode(sparse).ok()) << SparseDecode(sparse);
  sparse.num_planes = 1;
  sparse.top_plane_weight = 1;
  sparse.hash_words = 1;
  sparse.planes += 1;  // a row of odd planes begins where it may
  EXPECT_TRUE(SparseDecode(sparse).ok()) << SparseDecode(sparse);
}

TEST(ValidationTest, DoesNothingForZeroRows) {
  EXPECT_TRUE(AddRmsNorm(AddRmsNormParams()).ok());
  EXPECT_TRUE(SiluMul(SiluMulParams()).ok());
  EXPECT_TRUE(SparseDecode(SparseDecodeParams()).ok());
  EXPECT_TRUE(DenseDecode(DenseDecodeParams()).ok());
  EXPECT_TRUE(RetrievalQuality(RetrievalQualityParams()).ok());
  EXPECT_TRUE(EncodeAndAppend(EncodeAndAppendParams()).ok());
}

}  // namespace
}  // namespace spotlight::kernels::testing
