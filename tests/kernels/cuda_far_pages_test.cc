// Pools whose pages lie past 2^31 and 2^32 elements of their arrays: millions of pages per layer. No such memory is
// needed: page numbers are raised by kFirstPage, and the arrays' pointers lowered by as many pages.
#include <gtest/gtest.h>

#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/device_arena.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

constexpr int32_t kFirstPage = 9000000;

template <class T>
T* Lowered(T* array, size_t bytes_per_page) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(array) - kFirstPage * bytes_per_page);
}

LayerPages Lowered(LayerPages pages, const DecodeShape& shape) {
  const size_t code_bytes = size_t{kPageTokens} * shape.num_kv_heads * sizeof(uint32_t);
  pages.kv = Lowered(pages.kv, kPageTokens * KvBytesPerToken(shape.num_kv_heads, shape.head_dim, shape.dtype));
  pages.codes = Lowered(pages.codes, code_bytes * shape.hash_words);
  pages.prefix = Lowered(pages.prefix, code_bytes);
  pages.num_pages += kFirstPage;
  return pages;
}

// Runs `operation` on far pages and expects what the backend gives on near ones.
template <class Params>
void ExpectFarEqualsNear(DecodeCase* test, const Params& near, size_t workspace_bytes,
                         absl::Status (*operation)(const Params&)) {
  test->ClearOutput();
  ASSERT_TRUE(Backends().front()->Run(near, test->arena()).ok());
  const SparseResult expected = ResultOf(*test);
  test->ClearOutput();
  auto* table = const_cast<int32_t*>(near.page_table);
  const int64_t entries = int64_t{near.num_rows} * near.max_pages;
  for (int64_t i = 0; i < entries; ++i) table[i] += table[i] < near.pages.num_pages ? kFirstPage : 0;

  DeviceArena device;
  DeviceWorkspace workspace;
  ASSERT_TRUE(device.Upload(test->arena()).ok());
  ASSERT_TRUE(workspace.Prepare(workspace_bytes).ok());
  Params far = near;
  device.Move(&far.q, &far.pages, &far.page_table, &far.context_len, &far.out);
  if constexpr (std::is_same_v<Params, SparseDecodeParams>) {
    device.Move(&far.planes, &far.num_select, &far.selected, &far.num_selected);
  }
  far.pages = Lowered(far.pages, test->shape());
  far.execution.device = DeviceKind::kCuda;
  far.workspace = workspace.data();
  far.workspace_bytes = workspace_bytes;
  const absl::Status status = operation(far);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_TRUE(device.Download(test->arena()).ok());
  EXPECT_TRUE(ResultOf(*test) == expected);
  for (int64_t i = 0; i < entries; ++i) table[i] -= table[i] >= kFirstPage && table[i] < 1 << 30 ? kFirstPage : 0;
}

TEST(CudaFarPagesTest, AreReadByDecode) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.num_kv_heads = 4;
    shape.group = 7;
    shape.head_dim = 128;
    shape.context_len = {5000, 300};
    DecodeCase test(shape);
    for (const bool prefilter : {false, true}) {
      SparseDecodeParams sparse = test.Sparse();
      sparse.prefilter = prefilter;
      ExpectFarEqualsNear(&test, sparse,
                          SparseDecodeWorkspaceBytes(DeviceKind::kCuda, sparse.num_rows, sparse.max_context,
                                                     sparse.num_q_heads, sparse.num_kv_heads, sparse.head_dim),
                          SparseDecode);
    }
    const DenseDecodeParams dense = test.Dense();
    ExpectFarEqualsNear(&test, dense,
                        DenseDecodeWorkspaceBytes(DeviceKind::kCuda, dense.num_rows, dense.max_context,
                                                  dense.num_q_heads, dense.num_kv_heads, dense.head_dim),
                        DenseDecode);
  }
}

TEST(CudaFarPagesTest, AreWrittenByEncode) {
  constexpr int32_t kTokens = 70, kHeads = 4;
  for (const int32_t num_plane_tokens : {0, kTokens}) {  // a prompt's chunk; decode rows
    DecodeShape shape;
    shape.dtype = DType::kBF16;
    shape.num_kv_heads = kHeads;
    shape.group = 1;
    shape.head_dim = 128;
    shape.context_len = {640};
    shape.extra_bytes = 16 << 20;
    DecodeCase test(shape);
    Arena& arena = *test.arena();
    HashWeights hash;
    hash.weight_dtype = DType::kBF16;
    auto* weights = arena.Allocate<uint16_t>(kHeads * 256 * 256);
    QuickRandom random(3);
    for (int i = 0; i < kHeads * 256 * 256; ++i) weights[i] = static_cast<uint16_t>(random() & 0x80ff) | 0x3d00;
    hash.key = {128, weights, weights, weights, weights, weights};
    hash.query = {256, weights, weights, weights, weights, weights};
    EncodeAndAppendParams near;
    near.dtype = shape.dtype;
    near.num_tokens = kTokens;
    near.num_plane_tokens = num_plane_tokens;
    near.num_q_heads = near.num_kv_heads = kHeads;
    near.head_dim = 128;
    near.q = near.k = near.v = weights;
    near.q_stride = near.k_stride = near.v_stride = kHeads * 128;
    near.inv_freq = arena.Allocate<float>(64);
    near.positions = arena.Allocate<int32_t>(kTokens);
    auto* slots = arena.Allocate<int64_t>(kTokens);
    for (int i = 0; i < kTokens; ++i) slots[i] = 3 * i + 1;
    near.slots = slots;
    near.hash = &hash;
    near.pages = test.Sparse().pages;
    near.q_out = arena.Allocate<uint16_t>(kTokens * kHeads * 128);
    near.planes = arena.Allocate<uint32_t>(kTokens * kHeads * 16);
    near.plane_unit = arena.Allocate<float>(kTokens * kHeads);
    const std::vector<std::byte> clean(arena.base(), arena.base() + arena.extent());
    ASSERT_TRUE(Backends().front()->Run(near, &arena).ok());
    const ArenaCopy expected(arena);
    EXPECT_FALSE(std::equal(clean.begin(), clean.end(), arena.base()));

    std::copy(clean.begin(), clean.end(), arena.base());
    for (int i = 0; i < kTokens; ++i) slots[i] += int64_t{kFirstPage} * kPageTokens;
    DeviceArena device;
    ASSERT_TRUE(device.Upload(&arena).ok());
    EncodeAndAppendParams far = near;
    HashWeights moved = hash;
    device.Move(&moved.key, &moved.query);
    far.hash = &moved;
    device.Move(&far.q, &far.k, &far.v, &far.inv_freq, &far.positions, &far.slots, &far.pages, &far.q_out, &far.planes,
                &far.plane_unit);
    far.pages = Lowered(far.pages, shape);
    far.execution.device = DeviceKind::kCuda;
    const absl::Status status = EncodeAndAppend(far);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(device.Download(&arena).ok());
    EXPECT_TRUE(expected.EqualsOutside(arena, {{slots, kTokens * sizeof(int64_t)}}));
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
