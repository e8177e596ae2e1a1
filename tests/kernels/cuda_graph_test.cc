// One captured graph serves rows of any lengths up to max_context: lengths change between replays in device memory.
#include <gtest/gtest.h>

#include "tests/kernels/captured_graph.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/device_arena.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

std::vector<std::vector<int32_t>> LengthsUpTo(const std::vector<int32_t>& longest) {
  std::vector<std::vector<int32_t>> all;
  all.push_back(longest);
  all.emplace_back(longest.size(), 0);
  all.emplace_back(longest.size(), 1);
  for (int i = 1; i <= 6; ++i) {  // growing by a token, then anything
    std::vector<int32_t> lengths = longest;
    for (size_t row = 0; row < lengths.size(); ++row) {
      lengths[row] =
          i < 3 ? std::max(0, longest[row] - i) : (i * 7919 + static_cast<int32_t>(row) * 104729) % (longest[row] + 1);
    }
    all.push_back(lengths);
  }
  all.push_back(longest);
  return all;
}

// Replays `graph` for changing lengths and compares with the public operation, which `backend_call` runs eagerly.
template <class Params>
void ExpectReplaysEqualBackend(DecodeCase* test, const Params& host_params, Params device_params,
                               size_t workspace_bytes, absl::Status (*operation)(const Params&)) {
  DeviceArena device;
  DeviceWorkspace workspace;
  CapturedGraph graph;
  ASSERT_TRUE(device.Upload(test->arena()).ok());
  ASSERT_TRUE(workspace.Prepare(workspace_bytes).ok());
  device.Move(&device_params.q, &device_params.page_table, &device_params.context_len, &device_params.out,
              &device_params.pages);
  if constexpr (std::is_same_v<Params, SparseDecodeParams>) {
    device.Move(&device_params.planes, &device_params.num_select, &device_params.selected, &device_params.num_selected);
  }
  device_params.execution.device = DeviceKind::kCuda;
  device_params.workspace = workspace.data();
  device_params.workspace_bytes = workspace_bytes;
  absl::Status status = graph.Capture([&](void* stream) {
    device_params.execution.stream = stream;
    return operation(device_params);
  });
  ASSERT_TRUE(status.ok()) << status;
  for (const std::vector<int32_t>& lengths : LengthsUpTo(test->shape().context_len)) {
    SCOPED_TRACE(::testing::PrintToString(lengths));
    test->SetLengths(lengths);
    test->ClearOutput();
    ASSERT_TRUE(Backends().front()->Run(host_params, test->arena()).ok());
    const SparseResult expected = ResultOf(*test);
    test->ClearOutput();
    ASSERT_TRUE(device.Upload(test->arena()).ok());
    status = graph.Run();
    ASSERT_TRUE(status.ok()) << status;
    status = device.Download(test->arena());
    ASSERT_TRUE(status.ok()) << status;
    status = workspace.Check();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(ResultOf(*test) == expected);
  }
}

DecodeShape GraphShape() {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.group = 4;
  shape.context_len = {5000, 3000, 700, 70000, 64, 2000, 129, 33};
  shape.max_select = 1500;
  shape.max_context = 1 << 20;  // a graph is made for the longest rows that may come
  return shape;
}

TEST(CudaGraphTest, ServesSparseRowsOfAnyLengths) {
  for (const bool prefilter : {false, true}) {
    DecodeCase test(GraphShape());
    SparseDecodeParams params = test.Sparse();
    params.prefilter = prefilter;
    ExpectMatchesReference(&test, params);
    const size_t bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                    params.num_q_heads, params.num_kv_heads, params.head_dim);
    ExpectReplaysEqualBackend(&test, params, params, bytes, SparseDecode);
    test.SetLengths(GraphShape().context_len);
    ExpectMatchesReference(&test, params);
  }
}

TEST(CudaGraphTest, ServesDenseRowsOfAnyLengths) {
  DecodeCase test(GraphShape());
  const DenseDecodeParams params = test.Dense();
  const size_t bytes = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                 params.num_q_heads, params.num_kv_heads, params.head_dim);
  ExpectReplaysEqualBackend(&test, params, params, bytes, DenseDecode);
}

// Rows that reach the same lengths in calls of other shapes leave the workspace as they found it: what an engine does,
// which has one workspace for its largest step.
TEST(CudaGraphTest, ManyShapesShareOneWorkspace) {
  DeviceWorkspace workspace;
  const size_t bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, 300, 20000, 32, 4, 128);
  ASSERT_TRUE(workspace.Prepare(bytes).ok());
  for (int round = 0; round < 40; ++round) {
    DecodeShape shape;
    shape.dtype = round % 3 == 0 ? DType::kF32 : DType::kBF16;
    shape.group = 1 + round % 8;
    shape.num_kv_heads = 1 + round % 3;
    shape.head_dim = round % 2 == 0 ? 64 : 128;
    shape.hash_words = 1 << round % 4;
    shape.context_len.clear();
    const int rows = round % 7 == 6 ? 280 : 1 + round * 5 % 11;
    for (int row = 0; row < rows; ++row)
      shape.context_len.push_back((row * 1237 + round * 7919) % (rows > 20 ? 400 : 6000));
    shape.seed = round;
    DecodeCase test(shape);
    SparseDecodeParams params = test.Sparse();
    params.prefilter = round % 5 < 2;
    ASSERT_TRUE(Backends().front()->Run(params, test.arena()).ok());
    const SparseResult expected = ResultOf(test);
    test.ClearOutput();
    DeviceArena device;
    ASSERT_TRUE(device.Upload(test.arena()).ok());
    device.Move(&params.q, &params.planes, &params.page_table, &params.context_len, &params.num_select, &params.out,
                &params.selected, &params.num_selected, &params.pages);
    params.execution.device = DeviceKind::kCuda;
    params.workspace = workspace.data();
    params.workspace_bytes = bytes;
    const absl::Status status = SparseDecode(params);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(device.Download(test.arena()).ok());
    ASSERT_TRUE(workspace.Check().ok());
    ASSERT_TRUE(ResultOf(test) == expected) << "round " << round;
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
