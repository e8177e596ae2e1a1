// Decode steps as an engine enqueues them: encode_and_append, then attention that may begin while it still runs
// (overlap_encode). Two steps with different inputs alternate over the same pages, queries and planes, so attention
// that read any of them too early would see the other step's.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/numeric.h"
#include "kernels/reference/dense_decode.h"
#include "kernels/reference/sparse_decode.h"
#include "tests/kernels/captured_graph.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/device_arena.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

constexpr int kSteps = 2;

struct ChainShape {
  DecodeShape decode;
  int32_t padding_tokens = 0;  // appended nowhere: they make the encoder run longer
  bool prefilter = false;
  // Neither sinks nor recent tokens, half the candidates selected: the appended token competes, by the code just
  // written.
  bool all_compete = false;
};

// Every row appends its last token. Pointers are the host's until Upload().
class ChainCase {
 public:
  explicit ChainCase(const ChainShape& shape) : test_(WithRoom(shape)), shape_(shape) {
    const SparseDecodeParams sparse = test_.Sparse();
    if (shape.all_compete) {
      auto* num_select = const_cast<int32_t*>(sparse.num_select);
      for (int32_t row = 0; row < sparse.num_rows; ++row) num_select[row] = sparse.context_len[row] / 2;
    }
    const int64_t tokens = sparse.num_rows + shape.padding_tokens, heads = sparse.num_kv_heads, dim = sparse.head_dim;
    const int64_t q_heads = sparse.num_q_heads, stride = (q_heads + 2 * heads) * dim;
    const DType dtype = sparse.dtype;
    EncodeAndAppendParams encode;
    encode.execution.device = DeviceKind::kCuda;
    encode.dtype = dtype;
    encode.num_tokens = static_cast<int32_t>(tokens);
    encode.num_plane_tokens = sparse.num_rows;
    encode.num_q_heads = sparse.num_q_heads;
    encode.num_kv_heads = sparse.num_kv_heads;
    encode.head_dim = sparse.head_dim;
    encode.q_stride = encode.k_stride = encode.v_stride = stride;
    auto* inv_freq = test_.arena()->Allocate<float>(dim / 2);
    for (int64_t i = 0; i < dim / 2; ++i) inv_freq[i] = std::pow(10000.0f, -2.0f * i / dim);
    encode.inv_freq = inv_freq;
    auto* positions = test_.arena()->Allocate<int32_t>(tokens);
    auto* slots = test_.arena()->Allocate<int64_t>(tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t last = t < sparse.num_rows ? sparse.context_len[t] - 1 : -1;
      positions[t] = std::max(0, last);
      slots[t] = last < 0 ? -1
                          : int64_t{sparse.page_table[t * sparse.max_pages + last / kPageTokens]} * kPageTokens +
                                last % kPageTokens;
    }
    encode.positions = positions;
    encode.slots = slots;
    hash_.weight_dtype = DType::kBF16;
    hash_.hash_words = sparse.hash_words;
    hash_.num_planes = sparse.num_planes;
    hash_.key = Encoder(heads, dim, 128, 32 * sparse.hash_words);
    hash_.query = Encoder(heads, q_heads / heads * dim, 256, 32 * sparse.hash_words);
    encode.pages = sparse.pages;
    encode.q_out = test_.arena()->Allocate<char>(tokens * q_heads * dim * SizeOf(dtype));
    encode.planes = test_.arena()->Allocate<uint32_t>(tokens * heads * sparse.num_planes * sparse.hash_words);
    encode.plane_unit = test_.arena()->Allocate<float>(tokens * heads);
    for (int step = 0; step < kSteps; ++step) {
      char* qkv = Random(dtype, tokens * stride, 1.0f);
      encode.q = qkv;
      encode.k = qkv + q_heads * dim * SizeOf(dtype);
      encode.v = qkv + (q_heads + heads) * dim * SizeOf(dtype);
      encodes_.push_back(encode);
      for (char** out : {&sparse_out_[step], &dense_out_[step]}) *out = test_.arena()->Allocate<char>(OutBytes());
    }
    sparse_workspace_bytes_ = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, sparse.num_rows, sparse.max_context,
                                                         sparse.num_q_heads, sparse.num_kv_heads, sparse.head_dim);
    dense_workspace_bytes_ = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, sparse.num_rows, sparse.max_context,
                                                       sparse.num_q_heads, sparse.num_kv_heads, sparse.head_dim);
  }

  absl::Status Prepare() {
    absl::Status status = device_.Upload(test_.arena());
    status.Update(sparse_workspace_.Prepare(sparse_workspace_bytes_));
    status.Update(dense_workspace_.Prepare(dense_workspace_bytes_));
    return status;
  }

  // Poisons the outputs, then for each step: encode, sparse, encode of the other step, encode, dense.
  absl::Status Enqueue(void* stream, bool overlap) {
    absl::Status status;
    for (int step = 0; step < kSteps; ++step) {
      for (char* out : {sparse_out_[step], dense_out_[step]}) {
        device_.Move(&out);
        status.Update(ToStatus(cudaMemsetAsync(out, 0xff, OutBytes(), static_cast<cudaStream_t>(stream))));
      }
    }
    for (int step = 0; step < kSteps; ++step) {
      status.Update(Encode(step, stream));
      status.Update(Sparse(step, stream, overlap));
      status.Update(Encode(1 - step, stream));
      status.Update(Encode(step, stream));
      status.Update(Dense(step, stream, overlap));
    }
    return status;
  }

  // The four outputs' bytes, from the device.
  std::vector<char> Outputs() {
    std::vector<char> outputs(2 * kSteps * OutBytes());
    for (int i = 0; i < 2 * kSteps; ++i) {
      char* out = i < kSteps ? sparse_out_[i] : dense_out_[i - kSteps];
      device_.Move(&out);
      EXPECT_EQ(cudaMemcpy(&outputs[i * OutBytes()], out, OutBytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    }
    return outputs;
  }

  // The last step's outputs against the reference on what its encoder left in memory.
  void ExpectLastStepMatchesReference() {
    ASSERT_TRUE(device_.Download(test_.arena()).ok());
    ASSERT_TRUE(sparse_workspace_.Check().ok());
    ASSERT_TRUE(dense_workspace_.Check().ok());
    SparseDecodeParams sparse = SparseParams();
    sparse.q = encodes_[0].q_out;
    reference::SparseDecode(sparse);
    ExpectCloseByHead(test_, Floats(sparse_out_[kSteps - 1]), test_.Output());
    DenseDecodeParams dense = test_.Dense();
    dense.q = sparse.q;
    reference::DenseDecode(dense);
    ExpectCloseByHead(test_, Floats(dense_out_[kSteps - 1]), test_.Output());
  }

 private:
  static DecodeShape WithRoom(const ChainShape& shape) {
    DecodeShape decode = shape.decode;
    decode.extra_bytes = 32 << 20;
    return decode;
  }
  size_t OutBytes() const {
    return size_t(test_.num_rows()) * shape_.decode.group * shape_.decode.num_kv_heads * shape_.decode.head_dim *
           SizeOf(shape_.decode.dtype);
  }
  std::vector<float> Floats(const char* out) const {
    std::vector<float> floats(OutBytes() / SizeOf(shape_.decode.dtype));
    for (size_t i = 0; i < floats.size(); ++i) floats[i] = LoadElement(out, shape_.decode.dtype, i);
    return floats;
  }
  char* Random(DType dtype, int64_t count, float scale) {
    char* data = test_.arena()->Allocate<char>(count * SizeOf(dtype));
    for (int64_t i = 0; i < count; ++i) StoreElement(scale * normal_(random_), data, dtype, i);
    return data;
  }
  EncoderWeights Encoder(int64_t heads, int64_t inputs, int32_t hidden, int64_t bits) {
    const float scale = 1 / std::sqrt(static_cast<float>(inputs));
    EncoderWeights encoder;
    encoder.hidden = hidden;
    encoder.w1 = Random(DType::kBF16, heads * inputs * hidden, scale);
    encoder.b1 = Random(DType::kBF16, heads * hidden, 0.3f);
    encoder.w2 = Random(DType::kBF16, heads * hidden * bits, 1 / std::sqrt(static_cast<float>(hidden)));
    encoder.b2 = Random(DType::kBF16, heads * bits, 0.3f);
    encoder.skip = Random(DType::kBF16, heads * inputs * bits, scale);
    return encoder;
  }

  absl::Status Encode(int step, void* stream) {
    EncodeAndAppendParams encode = encodes_[step];
    HashWeights hash = hash_;
    device_.Move(&hash.key, &hash.query);
    device_.Move(&encode.q, &encode.k, &encode.v, &encode.inv_freq, &encode.positions, &encode.slots, &encode.pages,
                 &encode.q_out, &encode.planes, &encode.plane_unit);
    encode.hash = &hash;
    encode.execution.stream = stream;
    return EncodeAndAppend(encode);
  }
  template <class Params>
  absl::Status Attend(Params params, char* out, DeviceWorkspace* workspace, size_t bytes, void* stream, bool overlap) {
    params.execution.device = DeviceKind::kCuda;
    params.execution.stream = stream;
    params.q = encodes_[0].q_out;
    params.out = out;
    device_.Move(&params.q, &params.out, &params.pages, &params.page_table, &params.context_len);
    params.overlap_encode = overlap;
    params.workspace = workspace->data();
    params.workspace_bytes = bytes;
    if constexpr (std::is_same_v<Params, SparseDecodeParams>) {
      device_.Move(&params.planes, &params.num_select, &params.selected, &params.num_selected);
      return SparseDecode(params);
    } else {
      return DenseDecode(params);
    }
  }
  SparseDecodeParams SparseParams() {
    SparseDecodeParams params = test_.Sparse();
    params.prefilter = shape_.prefilter;
    params.planes = encodes_[0].planes;
    if (shape_.all_compete) params.sink_tokens = params.recent_tokens = 0;
    return params;
  }
  absl::Status Sparse(int step, void* stream, bool overlap) {
    return Attend(SparseParams(), sparse_out_[step], &sparse_workspace_, sparse_workspace_bytes_, stream, overlap);
  }
  absl::Status Dense(int step, void* stream, bool overlap) {
    return Attend(test_.Dense(), dense_out_[step], &dense_workspace_, dense_workspace_bytes_, stream, overlap);
  }

  DecodeCase test_;
  const ChainShape shape_;
  std::mt19937_64 random_{5};
  std::normal_distribution<float> normal_;
  HashWeights hash_;
  std::vector<EncodeAndAppendParams> encodes_;
  char *sparse_out_[kSteps] = {}, *dense_out_[kSteps] = {};
  size_t sparse_workspace_bytes_ = 0, dense_workspace_bytes_ = 0;
  DeviceArena device_;
  DeviceWorkspace sparse_workspace_, dense_workspace_;
};

void ExpectSameBitsOverlappedAndNot(const ChainShape& shape) {
  const int repeats = SeparateAllocations() ? 1 : 30;  // the sanitizer is slow
  ChainCase chain(shape);
  absl::Status status = chain.Prepare();
  ASSERT_TRUE(status.ok()) << status;
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  status = chain.Enqueue(stream, false);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const std::vector<char> expected = chain.Outputs();
  chain.ExpectLastStepMatchesReference();

  CapturedGraph graph;
  status = graph.Capture([&](void* capturing) { return chain.Enqueue(capturing, true); });
  ASSERT_TRUE(status.ok()) << status;
  for (int i = 0; i < repeats; ++i) {
    status = chain.Enqueue(stream, true);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(chain.Outputs() == expected) << "run " << i;
    status = graph.Run();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(chain.Outputs() == expected) << "graph " << i;
  }
  chain.ExpectLastStepMatchesReference();
  cudaStreamDestroy(stream);
}

ChainShape ShapeOf(const std::vector<int32_t>& context_len) {
  ChainShape shape;
  shape.decode.dtype = DType::kBF16;
  shape.decode.head_dim = 128;
  shape.decode.group = 7;
  shape.decode.max_select = 500;
  shape.decode.context_len = context_len;
  return shape;
}

class CudaChainTest : public ::testing::TestWithParam<std::tuple<int, int, bool, bool, bool>> {};

TEST_P(CudaChainTest, GivesTheSameBitsOverlappedAndNot) {
  std::vector<int32_t> context_len;
  for (int row = 0; row < std::get<0>(GetParam()); ++row) context_len.push_back(row % 5 == 3 ? 0 : 3000 >> row % 7);
  ChainShape shape = ShapeOf(context_len);
  std::tie(std::ignore, shape.padding_tokens, shape.prefilter, shape.all_compete, shape.decode.e4m3_pages) = GetParam();
  ExpectSameBitsOverlappedAndNot(shape);
}

INSTANTIATE_TEST_SUITE_P(Steps, CudaChainTest,
                         ::testing::Combine(::testing::Values(1, 2, 33), ::testing::Values(0, 300), ::testing::Bool(),
                                            ::testing::Bool(), ::testing::Bool()));

}  // namespace
}  // namespace spotlight::kernels::testing
