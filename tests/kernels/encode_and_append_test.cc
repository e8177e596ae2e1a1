// encode_and_append on every backend of the build, against the reference.
#include "kernels/encode_and_append.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"
#include "kernels/reference/dense_decode.h"
#include "kernels/reference/encode_and_append.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

struct EncodeShape {
  DType dtype = DType::kF32, weight_dtype = DType::kF32;
  int32_t num_tokens = 5, num_plane_tokens = 5;
  int32_t group = 3, num_kv_heads = 2, head_dim = 64;
  int32_t hash_words = 4, num_planes = 4;
  int32_t key_hidden = 128, query_hidden = 256;
  bool with_bias = true, with_hash = true;
  bool e4m3_pages = false;
};

// Random inputs and weights; token 1 is padding where there are several.
class EncodeCase {
 public:
  explicit EncodeCase(const EncodeShape& shape) : shape_(shape), arena_(24 << 20) {
    const int64_t tokens = shape.num_tokens, heads = shape.num_kv_heads, dim = shape.head_dim, group = shape.group;
    const int64_t q_heads = heads * group;
    params_.dtype = shape.dtype;
    params_.num_tokens = shape.num_tokens;
    params_.num_plane_tokens = shape.num_plane_tokens;
    params_.num_q_heads = static_cast<int32_t>(q_heads);
    params_.num_kv_heads = shape.num_kv_heads;
    params_.head_dim = shape.head_dim;
    // q, k and v side by side, as a fused projection leaves them.
    const int64_t stride = (q_heads + 2 * heads) * dim;
    char* qkv = Random(shape.dtype, tokens * stride, 1.0f);
    params_.q = qkv;
    params_.k = qkv + q_heads * dim * SizeOf(shape.dtype);
    params_.v = qkv + (q_heads + heads) * dim * SizeOf(shape.dtype);
    params_.q_stride = params_.k_stride = params_.v_stride = stride;
    if (shape.with_bias) {
      params_.q_bias = Random(shape.dtype, q_heads * dim, 0.5f);
      params_.k_bias = Random(shape.dtype, heads * dim, 0.5f);
      params_.v_bias = Random(shape.dtype, heads * dim, 0.5f);
    }
    auto* inv_freq = arena_.Allocate<float>(dim / 2);
    for (int64_t i = 0; i < dim / 2; ++i) inv_freq[i] = std::pow(10000.0f, -2.0f * i / dim);
    params_.inv_freq = inv_freq;
    params_.rope_scale = 1.25f;
    auto* positions = arena_.Allocate<int32_t>(tokens);
    auto* slots = arena_.Allocate<int64_t>(tokens);
    params_.pages.num_pages = static_cast<int32_t>(tokens / 32 + 3);
    for (int64_t t = 0; t < tokens; ++t) {
      positions[t] = static_cast<int32_t>(t * 131 + 7 + t % 3 * 500000);
      slots[t] = t == 1 ? -1 : t * 2 + 5;  // crosses pages, leaves holes
    }
    params_.positions = positions;
    params_.slots = slots;
    const int64_t entries = int64_t{params_.pages.num_pages} * heads * kPageTokens;
    kv_elements_ = entries * 2 * dim;
    params_.pages.kv = arena_.Allocate<char>(kv_elements_ * (shape.e4m3_pages ? 1 : SizeOf(shape.dtype)));
    if (shape.e4m3_pages) params_.pages.kv_scale = arena_.Allocate<float>(entries * 2);
    params_.pages.codes = arena_.Allocate<uint32_t>(entries * shape.hash_words);
    params_.pages.prefix = arena_.Allocate<uint32_t>(entries);
    params_.q_out = arena_.Allocate<char>(tokens * q_heads * dim * SizeOf(shape.dtype));
    params_.planes = arena_.Allocate<uint32_t>(tokens * heads * shape.num_planes * shape.hash_words);
    params_.plane_unit = arena_.Allocate<float>(tokens * heads);
    hash_.weight_dtype = shape.weight_dtype;
    hash_.hash_words = shape.hash_words;
    hash_.num_planes = shape.num_planes;
    hash_.key = Encoder(dim, shape.key_hidden);
    hash_.query = Encoder(group * dim, shape.query_hidden);
    if (shape.with_hash) params_.hash = &hash_;
  }

  EncodeAndAppendParams& params() { return params_; }
  HashWeights& hash() { return hash_; }
  const EncodeShape& shape() const { return shape_; }
  Arena* arena() { return &arena_; }

  struct Outputs {
    std::vector<float> q, kv, unit;
    std::vector<uint32_t> codes, prefix, planes;
  };

  // Clears every output, so that nothing of an earlier run remains.
  void Clear() {
    if (shape_.e4m3_pages) {
      std::fill_n(static_cast<uint8_t*>(params_.pages.kv), kv_elements_, 0x38);  // 1
      std::fill_n(params_.pages.kv_scale, entries() * 2, -77.0f);
    } else {
      for (int64_t i = 0; i < kv_elements_; ++i) StoreElement(-77, params_.pages.kv, shape_.dtype, i);
    }
    for (int64_t i = 0; i < num_q(); ++i) StoreElement(-77, params_.q_out, shape_.dtype, i);
    std::fill_n(params_.pages.codes, entries() * shape_.hash_words, 0xabababab);
    std::fill_n(params_.pages.prefix, entries(), 0xabababab);
    std::fill_n(params_.planes, num_units() * shape_.num_planes * shape_.hash_words, 0xabababab);
    std::fill_n(params_.plane_unit, num_units(), -77.0f);
  }

  Outputs Read() {
    Outputs out;
    for (int64_t i = 0; i < num_q(); ++i) out.q.push_back(LoadElement(params_.q_out, shape_.dtype, i));
    for (int64_t i = 0; i < kv_elements_; ++i) {
      const float scale = shape_.e4m3_pages ? params_.pages.kv_scale[i / shape_.head_dim] : 0;
      out.kv.push_back(shape_.e4m3_pages ? ToFloat(static_cast<const E4m3*>(params_.pages.kv)[i]) * scale
                                         : LoadElement(params_.pages.kv, shape_.dtype, i));
    }
    out.unit.assign(params_.plane_unit, params_.plane_unit + num_units());
    out.codes.assign(params_.pages.codes, params_.pages.codes + entries() * shape_.hash_words);
    out.prefix.assign(params_.pages.prefix, params_.pages.prefix + entries());
    out.planes.assign(params_.planes, params_.planes + num_units() * shape_.num_planes * shape_.hash_words);
    return out;
  }

 private:
  int64_t entries() const { return int64_t{params_.pages.num_pages} * shape_.num_kv_heads * kPageTokens; }
  int64_t num_q() const { return int64_t{shape_.num_tokens} * params_.num_q_heads * shape_.head_dim; }
  int64_t num_units() const { return int64_t{shape_.num_tokens} * shape_.num_kv_heads; }

  char* Random(DType dtype, int64_t count, float scale) {
    char* data = arena_.Allocate<char>(count * SizeOf(dtype));
    for (int64_t i = 0; i < count; ++i) StoreElement(scale * normal_(random_), data, dtype, i);
    return data;
  }

  EncoderWeights Encoder(int64_t inputs, int32_t hidden) {
    const int64_t heads = shape_.num_kv_heads, bits = 32 * shape_.hash_words;
    EncoderWeights encoder;
    encoder.hidden = hidden;
    if (hidden > 0) {
      encoder.w1 = Random(shape_.weight_dtype, heads * inputs * hidden, 1 / std::sqrt(static_cast<float>(inputs)));
      encoder.b1 = Random(shape_.weight_dtype, heads * hidden, 0.3f);
      encoder.w2 = Random(shape_.weight_dtype, heads * hidden * bits, 1 / std::sqrt(static_cast<float>(hidden)));
    }
    encoder.b2 = Random(shape_.weight_dtype, heads * bits, 0.3f);
    encoder.skip = Random(shape_.weight_dtype, heads * inputs * bits, 1 / std::sqrt(static_cast<float>(inputs)));
    return encoder;
  }

  const EncodeShape shape_;
  Arena arena_;
  std::mt19937_64 random_{7};
  std::normal_distribution<float> normal_;
  EncodeAndAppendParams params_;
  HashWeights hash_;
  int64_t kv_elements_ = 0;
};

int64_t DifferingBits(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  int64_t bits = 0;
  for (size_t i = 0; i < a.size(); ++i) bits += __builtin_popcount(a[i] ^ b[i]);
  return bits;
}

// Rotated values may differ by a rounding of the storage type here and there, of which some cross one of e4m3's; bits
// and levels only where a value is close to its threshold: in under 0.5% of positions.
void ExpectMatchesReference(EncodeCase* test, DType dtype) {
  const EncodeAndAppendParams& params = test->params();
  test->Clear();
  reference::EncodeAndAppend(params);
  const EncodeCase::Outputs expected = test->Read();
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test->Clear();
    const absl::Status status = backend->Run(params, test->arena());
    ASSERT_TRUE(status.ok()) << status;
    const EncodeCase::Outputs out = test->Read();
    const double tolerance = dtype == DType::kF32 ? 1e-6 : 5e-4;
    EXPECT_LE(RelativeNorm(out.q, expected.q), tolerance);
    EXPECT_LE(RelativeNorm(out.kv, expected.kv), test->shape().e4m3_pages ? 1e-2 : tolerance);
    for (size_t i = 0; i < out.kv.size(); ++i) ASSERT_EQ(out.kv[i] == -77, expected.kv[i] == -77) << i;
    // Untouched entries are equal in both and count for nothing here.
    const double code_bits = 32.0 * params.num_tokens * params.num_kv_heads * test->hash().hash_words;
    EXPECT_LE(DifferingBits(out.codes, expected.codes), 0.005 * code_bits);
    EXPECT_LE(DifferingBits(out.planes, expected.planes), 0.005 * code_bits * test->hash().num_planes);
    for (size_t i = 0; i < out.prefix.size(); ++i) {
      ASSERT_EQ(out.prefix[i], out.codes[i * test->hash().hash_words]) << i;
    }
    for (size_t i = 0; i < out.unit.size(); ++i) {
      ASSERT_NEAR(out.unit[i], expected.unit[i], (dtype == DType::kF32 ? 1e-5 : 2e-3) * std::abs(expected.unit[i]));
    }
  }
}

class EncodeAndAppendShapeTest
    : public ::testing::TestWithParam<std::tuple<DType, DType, std::pair<int, int>, int, int>> {};

TEST_P(EncodeAndAppendShapeTest, EqualsReference) {
  EncodeShape shape;
  std::pair<int, int> group_and_dim;
  std::tie(shape.dtype, shape.weight_dtype, group_and_dim, shape.hash_words, shape.num_tokens) = GetParam();
  std::tie(shape.group, shape.head_dim) = group_and_dim;
  shape.num_plane_tokens = std::min(shape.num_tokens, 19);
  EncodeCase test(shape);
  ExpectMatchesReference(&test, shape.dtype);
}

INSTANTIATE_TEST_SUITE_P(Shapes, EncodeAndAppendShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(std::pair(3, 64), std::pair(7, 128), std::pair(1, 64)),
                                            ::testing::Values(4), ::testing::Values(1, 6)));
// Tensor cores: every code size, batches of several passes, prompt tokens behind the decode rows.
INSTANTIATE_TEST_SUITE_P(Bf16Words, EncodeAndAppendShapeTest,
                         ::testing::Combine(::testing::Values(DType::kBF16, DType::kF16),
                                            ::testing::Values(DType::kBF16),
                                            ::testing::Values(std::pair(4, 64), std::pair(2, 128)),
                                            ::testing::Values(1, 2, 4, 8), ::testing::Values(1, 19, 83)));
INSTANTIATE_TEST_SUITE_P(Words, EncodeAndAppendShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32), ::testing::Values(DType::kF32),
                                            ::testing::Values(std::pair(4, 64)), ::testing::Values(1, 2, 8),
                                            ::testing::Values(37)));

class EncodeAndAppendE4m3Test : public ::testing::TestWithParam<std::tuple<DType, int, int, bool>> {
 protected:
  EncodeShape Shape() const {
    EncodeShape shape;
    std::tie(shape.dtype, shape.head_dim, shape.num_tokens, shape.with_hash) = GetParam();
    shape.weight_dtype = shape.dtype;
    shape.num_plane_tokens = std::min(shape.num_tokens, 19);
    return shape;
  }
};

// Keys and values as they are stored in dtype, rounded: exactly. Their codes are those of what is read of them.
TEST_P(EncodeAndAppendE4m3Test, RoundsWhatItStoresElsewhere) {
  EncodeShape shape = Shape();
  EncodeCase plain(shape);
  shape.e4m3_pages = true;
  EncodeCase test(shape);
  const LayerPages& pages = test.params().pages;
  const int32_t dim = shape.head_dim;
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    plain.Clear();
    test.Clear();
    ASSERT_TRUE(backend->Run(plain.params(), plain.arena()).ok());
    const absl::Status status = backend->Run(test.params(), test.arena());
    if (!HasE4m3Pages(*backend, shape.dtype)) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    const EncodeCase::Outputs stored = plain.Read();
    EXPECT_EQ(test.Read().q, stored.q);
    EXPECT_EQ(test.Read().planes, stored.planes);
    int64_t num_rows = 0;
    for (size_t row = 0; row * dim < stored.kv.size(); ++row) {
      const std::vector<float> values(&stored.kv[row * dim], &stored.kv[row * dim] + dim);
      if (values[0] == -77) {
        ASSERT_EQ(pages.kv_scale[row], -77);
        continue;
      }
      ++num_rows;
      std::vector<uint8_t> rounded(dim);
      float scale = 0;
      RoundToE4m3(shape.dtype, values, rounded.data(), &scale);
      ASSERT_EQ(pages.kv_scale[row], scale) << row;
      const auto* bytes = static_cast<const uint8_t*>(pages.kv) + row * dim;
      ASSERT_EQ(std::vector<uint8_t>(bytes, bytes + dim), rounded) << row;
    }
    EXPECT_EQ(num_rows, 2 * shape.num_kv_heads * (shape.num_tokens - (shape.num_tokens > 1 ? 1 : 0)));
  }
}

TEST_P(EncodeAndAppendE4m3Test, EqualsReference) {
  EncodeShape shape = Shape();
  if (!HasE4m3Pages(*Backends().front(), shape.dtype)) GTEST_SKIP() << "only the CPU has e4m3 pages beside fp32";
  shape.e4m3_pages = true;
  EncodeCase test(shape);
  ExpectMatchesReference(&test, shape.dtype);
}

// The last token's query attends to all of the case's tokens, at slots 0, 1, ...
std::vector<float> Attended(EncodeCase* test, const std::function<absl::Status(const DenseDecodeParams&)>& run) {
  const EncodeAndAppendParams& params = test->params();
  const int64_t q_width = int64_t{params.num_q_heads} * params.head_dim;
  DenseDecodeParams decode;
  decode.dtype = params.dtype;
  decode.num_rows = 1;
  decode.num_q_heads = params.num_q_heads;
  decode.num_kv_heads = params.num_kv_heads;
  decode.head_dim = params.head_dim;
  decode.softmax_scale = 0.1f;
  decode.q = static_cast<const char*>(params.q_out) + (params.num_tokens - 1) * q_width * SizeOf(params.dtype);
  decode.pages = params.pages;
  decode.max_pages = params.pages.num_pages;
  auto* table = test->arena()->Allocate<int32_t>(decode.max_pages);
  std::iota(table, table + decode.max_pages, 0);
  auto* context_len = test->arena()->Allocate<int32_t>(1);
  *context_len = decode.max_context = params.num_tokens;
  decode.page_table = table;
  decode.context_len = context_len;
  decode.out = test->arena()->Allocate<char>(q_width * SizeOf(params.dtype));
  const absl::Status status = run(decode);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<float> out;
  for (int64_t i = 0; i < q_width; ++i) out.push_back(LoadElement(decode.out, params.dtype, i));
  return out;
}

// A NaN or an infinity is its whole row's, and of no other row: in what is stored and in what attention makes of it.
TEST_P(EncodeAndAppendE4m3Test, MakesARowNaNThatIsNotFinite) {
  EncodeShape shape = Shape();
  shape.e4m3_pages = true;
  EncodeCase test(shape);
  const EncodeAndAppendParams& params = test.params();
  std::iota(const_cast<int64_t*>(params.slots), const_cast<int64_t*>(params.slots) + shape.num_tokens, 0);
  const LayerPages& pages = params.pages;
  const int64_t dim = shape.head_dim, token = shape.num_tokens - 1, head = 1;
  const int64_t entry = (token / kPageTokens * shape.num_kv_heads + head) * kPageTokens + token % kPageTokens;
  const auto bytes_of = [&](int64_t row) {
    const auto* begin = static_cast<const uint8_t*>(pages.kv) + row * dim;
    return std::vector<uint8_t>(begin, begin + dim);
  };
  const auto check = [&](const std::function<absl::Status()>& encode,
                         const std::function<absl::Status(const DenseDecodeParams&)>& decode) {
    test.Clear();
    ASSERT_TRUE(encode().ok());
    const EncodeCase::Outputs usual = test.Read();
    for (const bool is_value : {false, true}) {
      void* const x = const_cast<void*>(is_value ? params.v : params.k);
      const int64_t at = token * params.k_stride + head * dim + 3, row = 2 * entry + is_value;
      const float before = LoadElement(x, shape.dtype, at);
      for (const float element : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                  -std::numeric_limits<float>::infinity()}) {
        SCOPED_TRACE(::testing::Message() << (is_value ? "value " : "key ") << element);
        StoreElement(element, x, shape.dtype, at);
        test.Clear();
        ASSERT_TRUE(encode().ok());
        EXPECT_TRUE(std::isnan(pages.kv_scale[row]));
        EXPECT_EQ(bytes_of(row), std::vector<uint8_t>(dim, 0x7f));
        const EncodeCase::Outputs out = test.Read();
        for (size_t i = 0; i < out.kv.size(); ++i) {
          if (static_cast<int64_t>(i) / dim == row) continue;
          ASSERT_EQ(out.kv[i], usual.kv[i]) << i;
        }
        for (int w = 0; shape.with_hash && w < shape.hash_words; ++w) {
          const int64_t word = entry * shape.hash_words + w;
          EXPECT_EQ(out.codes[word], is_value ? usual.codes[word] : 0u);
        }
        const std::vector<float> attended = Attended(&test, decode);
        for (int64_t i = 0; i < static_cast<int64_t>(attended.size()); ++i) {
          ASSERT_EQ(std::isfinite(attended[i]), i / (shape.group * dim) != head) << i;
          ASSERT_EQ(std::isnan(attended[i]), i / (shape.group * dim) == head) << i;
        }
      }
      StoreElement(before, x, shape.dtype, at);
    }
  };
  {
    SCOPED_TRACE("reference");
    check(
        [&] {
          reference::EncodeAndAppend(params);
          return absl::OkStatus();
        },
        [](const DenseDecodeParams& decode) {
          reference::DenseDecode(decode);
          return absl::OkStatus();
        });
  }
  for (const auto& backend : Backends()) {
    if (!HasE4m3Pages(*backend, shape.dtype)) continue;
    SCOPED_TRACE(backend->name());
    check([&] { return backend->Run(params, test.arena()); },
          [&](const DenseDecodeParams& decode) { return backend->Run(decode, test.arena()); });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, EncodeAndAppendE4m3Test,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16), ::testing::Values(64, 128),
                                            ::testing::Values(1, 19, 83), ::testing::Bool()));

// Encoders that no tensor core kernel takes.
TEST(EncodeAndAppendTest, EncodesE4m3KeysByAnyEncoder) {
  EncodeShape shape;
  shape.dtype = DType::kBF16;
  shape.weight_dtype = DType::kF32;
  shape.e4m3_pages = true;
  EncodeCase test(shape);
  ExpectMatchesReference(&test, shape.dtype);
}

// Of one token's, whose elements are all `value`.
template <class T>
void ExpectValuesStoredAsZeros(DType dtype, T value) {
  EncodeShape shape;
  shape.dtype = shape.weight_dtype = dtype;
  shape.num_tokens = shape.num_plane_tokens = 1;
  shape.with_bias = false;
  shape.e4m3_pages = true;
  EncodeCase test(shape);
  std::fill_n(static_cast<T*>(const_cast<void*>(test.params().v)), shape.num_kv_heads * shape.head_dim, value);
  for (const auto& backend : Backends()) {
    if (!HasE4m3Pages(*backend, dtype)) continue;
    test.Clear();
    ASSERT_TRUE(backend->Run(test.params(), test.arena()).ok());
    const int64_t row = 2 * test.params().slots[0] + 1;  // of page 0, head 0
    EXPECT_EQ(test.params().pages.kv_scale[row], 1) << backend->name();
    const auto* bytes = static_cast<const uint8_t*>(test.params().pages.kv) + row * shape.head_dim;
    EXPECT_EQ(std::vector<uint8_t>(bytes, bytes + shape.head_dim), std::vector<uint8_t>(shape.head_dim, 0))
        << backend->name();
  }
}

TEST(EncodeAndAppendTest, GivesZerosInE4m3AScaleOfOne) {
  ExpectValuesStoredAsZeros<uint16_t>(DType::kBF16, 0);
}

// Their scale would be 0, and 0 / 0 no number.
TEST(EncodeAndAppendTest, StoresMagnitudesTooSmallForAScaleAsZeros) {
  ExpectValuesStoredAsZeros(DType::kF32, 1e-44f);
}

TEST(EncodeAndAppendTest, SupportsLinearEncodersAndOddHiddenSizes) {
  for (const auto& [key_hidden, query_hidden] : {std::pair(0, 0), std::pair(16, 48), std::pair(0, 144)}) {
    EncodeShape shape;
    shape.key_hidden = key_hidden;
    shape.query_hidden = query_hidden;
    shape.with_bias = false;
    EncodeCase test(shape);
    ExpectMatchesReference(&test, shape.dtype);
  }
}

TEST(EncodeAndAppendTest, SupportsHiddenSizesOnTensorCores) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [key_hidden, query_hidden] :
         {std::pair(0, 0), std::pair(16, 48), std::pair(0, 144), std::pair(256, 512), std::pair(272, 16)}) {
      SCOPED_TRACE(query_hidden);
      EncodeShape shape;
      shape.dtype = dtype;
      shape.weight_dtype = DType::kBF16;
      shape.num_tokens = 21;
      shape.num_plane_tokens = 4;
      shape.key_hidden = key_hidden;
      shape.query_hidden = query_hidden;
      EncodeCase test(shape);
      ExpectMatchesReference(&test, shape.dtype);
    }
  }
}

// Several passes of every cluster.
TEST(EncodeAndAppendTest, EncodesALargeDecodeBatch) {
  EncodeShape shape;
  shape.dtype = shape.weight_dtype = DType::kBF16;
  shape.num_kv_heads = 3;
  shape.num_tokens = shape.num_plane_tokens = 150;
  EncodeCase test(shape);
  ExpectMatchesReference(&test, shape.dtype);
}

TEST(EncodeAndAppendTest, WritesNoCodesWithoutAHash) {
  EncodeShape shape;
  shape.with_hash = false;
  EncodeCase test(shape);
  ExpectMatchesReference(&test, shape.dtype);
  EXPECT_EQ(test.params().pages.codes[0], 0xababababu);
  EXPECT_EQ(test.params().plane_unit[0], -77.0f);
}

TEST(EncodeAndAppendTest, PacksNaNAsZeroBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    EncodeShape shape;
    shape.dtype = dtype;
    shape.weight_dtype = dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
    shape.num_tokens = 4;
    shape.num_plane_tokens = 2;
    EncodeCase test(shape);
    EncodeAndAppendParams& params = test.params();
    // Head 0's keys of tokens 0 and 2, and token 0's query group.
    const float nan = std::numeric_limits<float>::quiet_NaN();
    StoreElement(nan, const_cast<void*>(params.q), dtype, 3);
    for (const int64_t token : {0, 2})
      StoreElement(nan, const_cast<void*>(params.k), dtype, token * params.k_stride + 3);
    for (const auto& backend : Backends()) {
      test.Clear();
      ASSERT_TRUE(backend->Run(params, test.arena()).ok());
      for (const int64_t token : {0, 2}) {
        const uint32_t* code = params.pages.codes + params.slots[token] * shape.hash_words;  // page 0, head 0
        for (int w = 0; w < shape.hash_words; ++w) EXPECT_EQ(code[w], 0u) << backend->name();
      }
      const int plane_words = shape.num_planes * shape.hash_words;
      for (int i = 0; i < plane_words; ++i) EXPECT_EQ(params.planes[i], 0u) << backend->name();
      // The NaN stays where it was.
      EXPECT_FALSE(std::isnan(params.plane_unit[1])) << backend->name();
      EXPECT_NE(params.pages.codes[params.slots[3] * shape.hash_words], 0u) << backend->name();
    }
  }
}

TEST(EncodeAndAppendTest, FloorsTheUnitOfAZeroQuery) {
  EncodeShape shape;
  shape.query_hidden = 0;
  shape.num_tokens = shape.num_plane_tokens = 1;
  shape.with_bias = false;
  EncodeCase test(shape);
  std::fill_n(const_cast<float*>(static_cast<const float*>(test.params().q)), shape.group * shape.head_dim, 0.0f);
  std::fill_n(const_cast<float*>(static_cast<const float*>(test.hash().query.b2)), 32 * shape.hash_words, 0.0f);
  for (const auto& backend : Backends()) {
    ASSERT_TRUE(backend->Run(test.params(), test.arena()).ok());
    EXPECT_FLOAT_EQ(test.params().plane_unit[0], test.hash().plane_step * 1e-6f) << backend->name();
    // floor(0) + 2^(J-1): the top plane alone.
    for (int w = 0; w < shape.hash_words; ++w) {
      EXPECT_EQ(test.params().planes[3 * shape.hash_words + w], ~0u);
      EXPECT_EQ(test.params().planes[w], 0u);
    }
  }
}

class EncodeAndAppendBatchTest : public ::testing::TestWithParam<std::tuple<std::pair<DType, bool>, int, int>> {};

// Alone a token is a decode row where its batch had it so, else a prompt's.
TEST_P(EncodeAndAppendBatchTest, GivesATokenTheSameBitsAloneAndInABatch) {
  EncodeShape shape;
  shape.weight_dtype = DType::kBF16;
  std::pair<DType, bool> storage;
  std::tie(storage, shape.head_dim, shape.num_plane_tokens) = GetParam();
  std::tie(shape.dtype, shape.e4m3_pages) = storage;
  shape.num_tokens = 75;
  EncodeCase test(shape);
  for (const auto& backend : Backends()) {
    test.Clear();
    ASSERT_TRUE(backend->Run(test.params(), test.arena()).ok());
    const EncodeCase::Outputs batch = test.Read();
    test.Clear();
    for (int32_t token = 0; token < shape.num_tokens; ++token) {
      EncodeAndAppendParams one = test.params();
      const int64_t q_row = int64_t{one.num_q_heads} * one.head_dim;
      one.num_tokens = 1;
      one.num_plane_tokens = token < shape.num_plane_tokens ? 1 : 0;
      one.q = static_cast<const char*>(one.q) + token * one.q_stride * 2;
      one.k = static_cast<const char*>(one.k) + token * one.k_stride * 2;
      one.v = static_cast<const char*>(one.v) + token * one.v_stride * 2;
      one.positions += token;
      one.slots += token;
      one.q_out = static_cast<char*>(one.q_out) + token * q_row * 2;
      one.planes += int64_t{token} * one.num_kv_heads * shape.num_planes * shape.hash_words;
      one.plane_unit += int64_t{token} * one.num_kv_heads;
      ASSERT_TRUE(backend->Run(one, test.arena()).ok());
    }
    const EncodeCase::Outputs alone = test.Read();
    EXPECT_EQ(alone.q, batch.q) << backend->name();
    EXPECT_EQ(alone.kv, batch.kv) << backend->name();
    EXPECT_EQ(alone.codes, batch.codes) << backend->name();
    EXPECT_EQ(alone.planes, batch.planes) << backend->name();
    EXPECT_EQ(alone.unit, batch.unit) << backend->name();

    // A key's bits do not depend on whether it came with a decode row or in a prompt.
    EncodeAndAppendParams prompt = test.params();
    prompt.num_plane_tokens = 0;
    test.Clear();
    ASSERT_TRUE(backend->Run(prompt, test.arena()).ok());
    const EncodeCase::Outputs chunk = test.Read();
    EXPECT_EQ(chunk.q, batch.q) << backend->name();
    EXPECT_EQ(chunk.kv, batch.kv) << backend->name();
    EXPECT_EQ(chunk.codes, batch.codes) << backend->name();
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, EncodeAndAppendBatchTest,
                         ::testing::Combine(::testing::Values(std::pair(DType::kBF16, false),
                                                              std::pair(DType::kF16, false),
                                                              std::pair(DType::kBF16, true)),
                                            ::testing::Values(64, 128), ::testing::Values(75, 30)));

}  // namespace
}  // namespace spotlight::kernels::testing
