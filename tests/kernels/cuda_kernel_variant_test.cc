// Which machine code runs: sm_90a's own on such a chip, else what the driver makes of compute_80. A binary that carries
// nothing but PTX of compute_80 must run that everywhere, for every kernel of every operation.
#include <gtest/gtest.h>

#include "kernels/pointwise.h"
#include "tests/kernels/captured_graph.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/device_arena.h"

namespace spotlight::kernels::testing {
namespace {

int DeviceVersion() {
  int major = 0, minor = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), cudaSuccess);
  return 10 * major + minor;
}

// Captures, never runs: pointers need only look right.
template <class Params>
void ExpectVariant(Params params, absl::Status (*operation)(const Params&)) {
  CapturedGraph graph;
  params.execution.device = DeviceKind::kCuda;
  absl::Status status = graph.Capture([&](void* stream) {
    params.execution.stream = stream;
    return operation(params);
  });
  ASSERT_TRUE(status.ok()) << status;
  std::vector<cudaFuncAttributes> kernels;
  status = graph.KernelAttributes(&kernels);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_FALSE(kernels.empty());
  const int device = DeviceVersion();
  for (const cudaFuncAttributes& kernel : kernels) {
    EXPECT_EQ(kernel.ptxVersion, SPOTLIGHT_PTX_VERSION == 90 && device == 90 ? 90 : 80);
    EXPECT_EQ(kernel.binaryVersion, device);
  }
}

class CudaKernelVariantTest : public ::testing::TestWithParam<std::tuple<DType, int, int>> {};

TEST_P(CudaKernelVariantTest, IsTheOneOfThisBinary) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.head_dim, shape.hash_words) = GetParam();
  shape.context_len = {20000, 300};
  shape.max_select = 500;
  DecodeCase test(shape);
  const SparseDecodeParams sparse = test.Sparse();
  DeviceWorkspace sparse_workspace, dense_workspace, quality_workspace;
  for (const bool prefilter : {false, true}) {
    SparseDecodeParams params = sparse;
    params.prefilter = prefilter;
    params.workspace_bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                        params.num_q_heads, params.num_kv_heads, params.head_dim);
    ASSERT_TRUE(sparse_workspace.Prepare(params.workspace_bytes).ok());
    params.workspace = sparse_workspace.data();
    ExpectVariant(params, SparseDecode);
  }
  DenseDecodeParams dense = test.Dense();
  dense.workspace_bytes = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, dense.num_rows, dense.max_context,
                                                    dense.num_q_heads, dense.num_kv_heads, dense.head_dim);
  ASSERT_TRUE(dense_workspace.Prepare(dense.workspace_bytes).ok());
  dense.workspace = dense_workspace.data();
  ExpectVariant(dense, DenseDecode);
  RetrievalQualityParams quality = test.Quality();
  quality.recall = quality.iou = quality.candidate_mass = quality.oracle_mass = quality.attention_mass =
      quality.output_error = reinterpret_cast<float*>(sparse.num_selected);
  quality.workspace_bytes = RetrievalQualityWorkspaceBytes(DeviceKind::kCuda, quality.num_rows, quality.max_context,
                                                           quality.num_q_heads, quality.num_kv_heads, quality.head_dim);
  ASSERT_TRUE(quality_workspace.Prepare(quality.workspace_bytes).ok());
  quality.workspace = quality_workspace.data();
  ExpectVariant(quality, RetrievalQuality);

  for (const int32_t num_tokens : {2, 600}) {  // a decode step; a prompt's chunk
    HashWeights hash;
    hash.weight_dtype = DType::kBF16;
    hash.hash_words = shape.hash_words;
    hash.key = {128, sparse.q, sparse.q, sparse.q, sparse.q, sparse.q};
    hash.query = {256, sparse.q, sparse.q, sparse.q, sparse.q, sparse.q};
    EncodeAndAppendParams encode;
    encode.dtype = shape.dtype;
    encode.num_tokens = num_tokens;
    encode.num_plane_tokens = 2;
    encode.num_q_heads = sparse.num_q_heads;
    encode.num_kv_heads = sparse.num_kv_heads;
    encode.head_dim = sparse.head_dim;
    encode.q = encode.k = encode.v = sparse.q;
    encode.q_stride = encode.k_stride = encode.v_stride = int64_t{sparse.num_q_heads} * sparse.head_dim;
    encode.inv_freq = reinterpret_cast<const float*>(sparse.planes);
    encode.positions = sparse.context_len;
    encode.slots = reinterpret_cast<const int64_t*>(sparse.page_table);
    encode.hash = &hash;
    encode.pages = sparse.pages;
    encode.q_out = sparse.out;
    encode.planes = reinterpret_cast<uint32_t*>(sparse.selected);
    encode.plane_unit = reinterpret_cast<float*>(sparse.num_selected);
    ExpectVariant(encode, EncodeAndAppend);
  }

  AddRmsNormParams norm;
  norm.dtype = shape.dtype;
  norm.num_tokens = 1;
  norm.hidden = 64;
  norm.eps = 1e-5f;
  norm.x = sparse.out;
  norm.weight = sparse.q;
  norm.out = sparse.out;
  ExpectVariant(norm, AddRmsNorm);
  SiluMulParams silu;
  silu.dtype = shape.dtype;
  silu.num_tokens = 1;
  silu.intermediate = 64;
  silu.gate_up = sparse.q;
  silu.out = sparse.out;
  ExpectVariant(silu, SiluMul);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaKernelVariantTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(64, 128), ::testing::Values(1, 2, 4, 8)));

}  // namespace
}  // namespace spotlight::kernels::testing
