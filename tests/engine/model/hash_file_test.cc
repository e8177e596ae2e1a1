#include "engine/model/hash_file.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/hash_file_metadata.h"
#include "engine/model/safetensors_values.h"
#include "engine/model/safetensors_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using kernels::DType;
using testing::ElementsAre;

const std::string kFingerprint(64, 'a');
constexpr int kHeads = 2, kGroup = 3, kHeadDim = 16, kBits = 64;

ModelConfig TinyConfig() {
  TempFolder folder;
  folder.Write("config.json", kTinyConfig);
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

// A hash file in parts, for tests to spoil one of them.
struct Parts {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsWriter::Tensor> tensors;
  float fill = 0.5f;  // every number of every tensor

  SafetensorsWriter::Tensor& Tensor(const std::string& name) {
    for (SafetensorsWriter::Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << "no tensor " << name;
    return tensors.front();
  }

  std::string Write(const TempFolder& folder, const std::string& name = "hash.safetensors") const {
    auto writer = SafetensorsWriter::Create(folder.File(name), tensors, metadata);
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const SafetensorsWriter::Tensor& tensor : tensors) {
      int64_t count = 1;
      for (const int64_t dimension : tensor.shape) count *= dimension;
      const std::vector<float> floats(count, fill);
      const std::vector<uint16_t> halves(count, ToBf16(fill));
      const std::vector<int8_t> integers(count, 100);
      const void* bytes = halves.data();
      if (tensor.dtype == DType::kF32) bytes = floats.data();
      if (tensor.is_int8) bytes = integers.data();
      EXPECT_TRUE((*writer)->Append(bytes, count * (tensor.is_int8 ? 1 : kernels::SizeOf(tensor.dtype))).ok());
    }
    EXPECT_TRUE((*writer)->Finish().ok());
    return folder.File(name);
  }
};

// Trained, layers 2 and 3, hidden sizes 16 and 32.
Parts GoodParts(const std::string& encoder = "z") {
  HashFileMetadata metadata;
  metadata.encoder = encoder;
  metadata.hash_bits = kBits;
  metadata.prefix_bits = 32;
  metadata.num_layers = 4;
  metadata.num_kv_heads = kHeads;
  metadata.group = kGroup;
  metadata.head_dim = kHeadDim;
  metadata.layers = {2, 3};
  metadata.model_fingerprint = kFingerprint;
  metadata.trained = true;
  Parts parts;
  parts.metadata = FormatHashFileMetadata(metadata);
  for (const std::string layer : {"layers.2.", "layers.3."}) {
    parts.tensors.push_back({layer + "logit_scale", DType::kF32, {kHeads}});
    for (const auto& [side, in, hidden] :
         {std::make_tuple("key.", kHeadDim, 16), std::make_tuple("query.", kGroup * kHeadDim, 32)}) {
      const std::string prefix = layer + side;
      if (encoder == "z") {
        parts.tensors.push_back({prefix + "w1", DType::kBF16, {kHeads, in, hidden}});
        parts.tensors.push_back({prefix + "b1", DType::kBF16, {kHeads, hidden}});
        parts.tensors.push_back({prefix + "w2", DType::kBF16, {kHeads, hidden, kBits}});
      }
      parts.tensors.push_back({prefix + "b2", DType::kBF16, {kHeads, kBits}});
      parts.tensors.push_back({prefix + "skip", DType::kBF16, {kHeads, in, kBits}});
    }
  }
  return parts;
}

TEST(HashFileTest, LoadsEveryTensorOfATrainedFile) {
  TempFolder folder;
  const auto hash = LoadHashFile(GoodParts().Write(folder), TinyConfig(), kFingerprint, /*allow_untrained=*/false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->dtype, DType::kBF16);
  EXPECT_EQ(hash->hash_words, 2);
  EXPECT_EQ(hash->num_planes, 4);
  EXPECT_FLOAT_EQ(hash->plane_step, 0.335f);
  EXPECT_EQ(hash->prefix_bits, 32);
  EXPECT_TRUE(hash->trained);
  EXPECT_EQ(hash->model_fingerprint, kFingerprint);
  ASSERT_EQ(hash->layers.size(), 2u);
  const LayerHashView& layer = hash->layers.at(3);
  EXPECT_THAT(layer.logit_scale, ElementsAre(0.5f, 0.5f));
  EXPECT_EQ(layer.key.hidden, 16);
  EXPECT_EQ(layer.query.hidden, 32);
  EXPECT_THAT(layer.query.w1.shape, ElementsAre(kHeads, kGroup * kHeadDim, 32));
  EXPECT_THAT(layer.key.skip.shape, ElementsAre(kHeads, kHeadDim, kBits));
  EXPECT_NE(layer.key.b2.data, nullptr);
}

TEST(HashFileTest, LinearEncodersHaveNoHiddenLayer) {
  TempFolder folder;
  const auto hash = LoadHashFile(GoodParts("linear").Write(folder), TinyConfig(), kFingerprint, false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  const LayerHashView& layer = hash->layers.at(2);
  EXPECT_EQ(layer.key.hidden, 0);
  EXPECT_EQ(layer.key.w1.data, nullptr);
  EXPECT_EQ(layer.key.b1.data, nullptr);
  EXPECT_EQ(layer.key.w2.data, nullptr);
  EXPECT_NE(layer.query.skip.data, nullptr);
}

TEST(HashFileTest, EncodersMayBeF32) {
  TempFolder folder;
  Parts parts = GoodParts();
  for (SafetensorsWriter::Tensor& tensor : parts.tensors) tensor.dtype = DType::kF32;
  const auto hash = LoadHashFile(parts.Write(folder), TinyConfig(), kFingerprint, false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->dtype, DType::kF32);
}

// Every matrix in 8 bits, with its scales.
Parts Int8Parts() {
  Parts parts = GoodParts();
  std::vector<SafetensorsWriter::Tensor> scales;
  for (SafetensorsWriter::Tensor& tensor : parts.tensors) {
    if (tensor.shape.size() != 3) continue;
    tensor.is_int8 = true;
    scales.push_back({tensor.name + ".scale", DType::kF32, {tensor.shape[0], tensor.shape[2]}});
  }
  parts.tensors.insert(parts.tensors.begin(), scales.begin(), scales.end());
  return parts;
}

std::vector<float> Floats(const TensorView& view) {
  std::vector<float> values(NumElements(view));
  ReadFloats(view, 0, NumElements(view), values.data());
  return values;
}

TEST(HashFileTest, Int8MatricesBecomeWhatNumpyMakesOfThem) {
  const auto stored = LoadHashFile("tests/testdata/goldens/int8_hash.safetensors", TinyConfig(), kFingerprint,
                                   /*allow_untrained=*/false);
  ASSERT_TRUE(stored.ok()) << stored.status();
  const auto plain = LoadHashFile("tests/testdata/goldens/int8_hash_dequantised.safetensors", TinyConfig(),
                                  kFingerprint, /*allow_untrained=*/false);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(stored->dtype, DType::kBF16);
  ASSERT_EQ(stored->layers.size(), 1u);
  const LayerHashView &a = stored->layers.at(3), &b = plain->layers.at(3);
  for (const auto& [encoder, expected] : {std::make_pair(&a.key, &b.key), std::make_pair(&a.query, &b.query)}) {
    EXPECT_EQ(encoder->hidden, expected->hidden);
    for (const auto tensor : {&LayerHashView::Encoder::w1, &LayerHashView::Encoder::b1, &LayerHashView::Encoder::w2,
                              &LayerHashView::Encoder::b2, &LayerHashView::Encoder::skip}) {
      const TensorView &view = encoder->*tensor, &wanted = expected->*tensor;
      EXPECT_EQ(view.dtype, DType::kBF16);
      EXPECT_EQ(view.shape, wanted.shape);
      EXPECT_EQ(Floats(view), Floats(wanted));
    }
  }
}

TEST(HashFileTest, Int8MatricesAreF32BesideBiasesInF32) {
  TempFolder folder;
  Parts parts = Int8Parts();
  parts.fill = 0.3f;
  for (SafetensorsWriter::Tensor& tensor : parts.tensors) tensor.dtype = DType::kF32;
  const auto hash = LoadHashFile(parts.Write(folder), TinyConfig(), kFingerprint, false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->dtype, DType::kF32);
  EXPECT_THAT(Floats(hash->layers.at(2).query.w1), testing::Each(100 * 0.3f));
}

TEST(HashFileTest, Int8AndBf16MatricesMayStandInOneFile) {
  TempFolder folder;
  Parts parts = Int8Parts();
  for (const std::string& name : {std::string("layers.2.key.w1"), std::string("layers.3.query.skip")}) {
    parts.Tensor(name).is_int8 = false;
    parts.tensors.erase(std::find_if(parts.tensors.begin(), parts.tensors.end(),
                                     [&](const auto& tensor) { return tensor.name == name + ".scale"; }));
  }
  const auto hash = LoadHashFile(parts.Write(folder), TinyConfig(), kFingerprint, false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_THAT(Floats(hash->layers.at(2).key.w1), testing::Each(0.5f));
  EXPECT_THAT(Floats(hash->layers.at(3).key.w1), testing::Each(50.0f));
}

struct Refusal {
  std::function<void(Parts&)> spoil;
  std::string message;
};

Refusal Metadata(const std::string& key, const std::string& value, const std::string& message) {
  return {[=](Parts& parts) { parts.metadata[key] = value; }, message};
}

Refusal Missing(const std::string& key) {
  return {[=](Parts& parts) { parts.metadata.erase(key); }, "metadata " + key + ": is missing"};
}

Refusal Shape(const std::string& name, const std::vector<int64_t>& shape, const std::string& message) {
  return {[=](Parts& parts) { parts.Tensor(name).shape = shape; }, message};
}

class HashFileRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(HashFileRefusalTest, NamesTheFileAndTheReason) {
  TempFolder folder;
  Parts parts = GoodParts();
  GetParam().spoil(parts);
  const std::string path = parts.Write(folder);
  const auto hash = LoadHashFile(path, TinyConfig(), kFingerprint, /*allow_untrained=*/true);
  EXPECT_EQ(hash.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(hash.status().message()), path + ": " + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    OfMetadata, HashFileRefusalTest,
    testing::Values(
        Missing("format"), Missing("encoder"), Missing("scoring"), Missing("planes"), Missing("plane_step"),
        Missing("hash_bits"), Missing("prefix_bits"), Missing("num_layers"), Missing("num_kv_heads"), Missing("group"),
        Missing("head_dim"), Missing("layers"), Missing("model_fingerprint"), Missing("trained"),
        Metadata("format", "spotlight-hash-2",
                 R"(metadata format: "spotlight-hash-2" is not supported (spotlight-hash-1))"),
        Metadata("encoder", "tree", R"(metadata encoder: "tree" is not supported (z, linear))"),
        Metadata("scoring", "symmetric",
                 R"(metadata scoring: "symmetric" is for evaluation only and cannot be served (asymmetric))"),
        Metadata("planes", "5", R"(metadata planes: must be an integer in [1, 4], is "5")"),
        Metadata("planes", "four", R"(metadata planes: must be an integer in [1, 4], is "four")"),
        Metadata("plane_step", "0", R"(metadata plane_step: must be a positive number, is "0")"),
        Metadata("plane_step", "nan", R"(metadata plane_step: must be a positive number, is "nan")"),
        Metadata("plane_step", "1e999", R"(metadata plane_step: must be a positive number, is "1e999")"),
        Metadata("hash_bits", "100", "metadata hash_bits: must be 32, 64, 128 or 256, is 100"),
        Metadata("hash_bits", "96", "metadata hash_bits: must be 32, 64, 128 or 256, is 96"),
        Metadata("hash_bits", "512", R"(metadata hash_bits: must be an integer in [32, 256], is "512")"),
        Metadata("prefix_bits", "16", "metadata prefix_bits: must be 0 or 32, is 16"),
        Metadata("num_layers", "5", "metadata num_layers: is 5, the model has 4"),
        Metadata("num_kv_heads", "1", "metadata num_kv_heads: is 1, the model has 2"),
        Metadata("group", "7", "metadata group: is 7, the model has 3"),
        Metadata("head_dim", "64", "metadata head_dim: is 64, the model has 16"),
        Metadata("layers", "", R"(metadata layers: must be an integer in [0, 3], is "")"),
        Metadata("layers", "2,4", R"(metadata layers: must be an integer in [0, 3], is "4")"),
        Metadata("layers", "3,2", "metadata layers: must ascend"),
        Metadata("layers", "2,2", "metadata layers: must ascend"),
        Metadata("trained", "yes", R"(metadata trained: "yes" is not supported (true, false))"),
        Metadata("model_fingerprint", "b",
                 "was made for another model: its model_fingerprint is b, this model's is " + kFingerprint)));

INSTANTIATE_TEST_SUITE_P(
    OfTensors, HashFileRefusalTest,
    testing::Values(
        Metadata("layers", "1,2,3", "has no tensor layers.1.key.w1"),
        Metadata("layers", "2", "has tensor layers.3.key.b1, which its metadata does not announce"),
        Metadata("encoder", "linear", "has tensor layers.2.key.b1, which its metadata does not announce"),
        Metadata("hash_bits", "32",
                 "tensor layers.2.key.w2 has shape [2, 16, 64], must be [2, 16, 32] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.2.key.w1", {2, 16, 0},
              "tensor layers.2.key.w1 has shape [2, 16, 0], must be [2, 16, -1] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.2.key.w1", {2, 8, 16},
              "tensor layers.2.key.w1 has shape [2, 8, 16], must be [2, 16, -1] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.2.key.w1", {2, 16, 24},
              "tensor layers.2.key.w1 has shape [2, 16, 24], must be [2, 16, -1] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.2.key.w1", {2, 16, 4097},
              "tensor layers.2.key.w1 has shape [2, 16, 4097], must be [2, 16, -1] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.3.key.b1", {2, 9},
              "tensor layers.3.key.b1 has shape [2, 9], must be [2, 16] (-1: a multiple of 16 up to 4096)"),
        Shape(
            "layers.3.query.skip", {2, 16, 64},
            "tensor layers.3.query.skip has shape [2, 16, 64], must be [2, 48, 64] (-1: a multiple of 16 up to 4096)"),
        Shape("layers.3.logit_scale", {2, 1},
              "tensor layers.3.logit_scale has shape [2, 1], must be [2] (-1: a multiple of 16 up to 4096)"),
        Refusal{[](Parts& parts) { parts.Tensor("layers.3.logit_scale").dtype = DType::kBF16; },
                "tensor layers.3.logit_scale is not F32"},
        Refusal{[](Parts& parts) { parts.Tensor("layers.3.query.b2").dtype = DType::kF32; },
                "layer 3: all encoder tensors but I8 matrices must be BF16 or all F32"},
        Refusal{[](Parts& parts) { parts.Tensor("layers.2.key.w1").name = "other"; }, "has no tensor layers.2.key.w1"},
        Refusal{[](Parts& parts) { parts.fill = -1; }, "tensor layers.2.logit_scale must be positive, holds -1"},
        Refusal{[](Parts& parts) { parts.fill = std::numeric_limits<float>::quiet_NaN(); },
                "tensor layers.2.key.w1 holds a number that is not finite"},
        Refusal{[](Parts& parts) { parts.fill = std::numeric_limits<float>::infinity(); },
                "tensor layers.2.key.w1 holds a number that is not finite"}));

class Int8HashFileRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(Int8HashFileRefusalTest, NamesTheTensorAndTheReason) {
  TempFolder folder;
  Parts parts = Int8Parts();
  GetParam().spoil(parts);
  const std::string path = parts.Write(folder);
  const auto hash = LoadHashFile(path, TinyConfig(), kFingerprint, /*allow_untrained=*/true);
  EXPECT_EQ(hash.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(hash.status().message()), path + ": " + GetParam().message);
}

Refusal Fill(float fill, const std::string& message) {
  return {[=](Parts& parts) { parts.fill = fill; }, message};
}

INSTANTIATE_TEST_SUITE_P(
    OfScales, Int8HashFileRefusalTest,
    testing::Values(
        Fill(0, "tensor layers.2.key.w1.scale must hold positive numbers, holds 0"),
        Fill(-1, "tensor layers.2.key.w1.scale must hold positive numbers, holds -1"),
        Fill(std::numeric_limits<float>::quiet_NaN(),
             "tensor layers.2.key.w1.scale must hold positive numbers, holds nan"),
        Fill(std::numeric_limits<float>::infinity(),
             "tensor layers.2.key.w1.scale must hold positive numbers, holds inf"),
        Fill(1e38f, "tensor layers.2.key.w1 holds a number that is not finite"),
        Shape("layers.2.key.w1.scale", {2, 15}, "tensor layers.2.key.w1.scale has shape [2, 15], must be [2, 16]"),
        Shape("layers.3.query.w2.scale", {2, 1, 64},
              "tensor layers.3.query.w2.scale has shape [2, 1, 64], must be [2, 64]"),
        Shape("layers.2.key.w1", {2, 256}, "tensor layers.2.key.w1 has shape [2, 256], must have three dimensions"),
        Refusal{[](Parts& parts) { parts.Tensor("layers.2.key.w1.scale").dtype = DType::kBF16; },
                "tensor layers.2.key.w1.scale is not F32"},
        Refusal{[](Parts& parts) { parts.Tensor("layers.2.key.w1.scale").name = "other"; },
                "tensor layers.2.key.w1 is I8 and there is no layers.2.key.w1.scale"},
        Refusal{[](Parts& parts) { parts.Tensor("layers.2.key.w1").is_int8 = false; },
                "has tensor layers.2.key.w1.scale, which its metadata does not announce"},
        Refusal{[](Parts& parts) { parts.Tensor("layers.2.key.b1").is_int8 = true; },
                "tensor layers.2.key.b1 is not F32 or BF16"}));

TEST(HashFileTest, UntrainedFilesLoadOnlyWhereAllowed) {
  TempFolder folder;
  const std::string path = folder.File("hash.safetensors");
  ASSERT_TRUE(WriteUntrainedHashFile(path, TinyConfig(), kFingerprint, 2, 4, /*seed=*/1).ok());
  const absl::Status status = LoadHashFile(path, TinyConfig(), kFingerprint, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()),
            path + ": trained = false: what it retrieves is meaningless; --allow-untrained-hash loads it all the same");

  const auto hash = LoadHashFile(path, TinyConfig(), kFingerprint, true);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_FALSE(hash->trained);
  EXPECT_EQ(hash->hash_words, 4);
  EXPECT_EQ(hash->layers.count(1), 0u);
  EXPECT_EQ(hash->layers.at(2).key.hidden, 128);
  EXPECT_EQ(hash->layers.at(3).query.hidden, 256);
}

TEST(HashFileTest, UntrainedSkipsAreRotationsThatKeysAndQueriesShare) {
  TempFolder folder;
  const std::string path = folder.File("hash.safetensors");
  ASSERT_TRUE(WriteUntrainedHashFile(path, TinyConfig(), kFingerprint, 3, 1, /*seed=*/5).ok());
  const auto hash = LoadHashFile(path, TinyConfig(), kFingerprint, true);
  ASSERT_TRUE(hash.ok()) << hash.status();
  const auto& [key, query, logit_scale] = hash->layers.at(3);
  const int64_t bits = 32, key_size = kHeadDim * bits;
  std::vector<float> keys(kHeads * key_size), queries(kHeads * kGroup * key_size);
  ReadFloats(key.skip, 0, keys.size(), keys.data());
  ReadFloats(query.skip, 0, queries.size(), queries.data());
  for (int head = 0; head < kHeads; ++head) {
    const float* rotation = &keys[head * key_size];
    for (int group = 0; group < kGroup; ++group) {
      const float* copy = &queries[(head * kGroup + group) * key_size];
      EXPECT_TRUE(std::equal(rotation, rotation + key_size, copy)) << head << ", " << group;
    }
    // Two rotations of 16 columns: orthonormal within each.
    for (int a = 0; a < bits; ++a) {
      for (int b = a; b < bits && b / kHeadDim == a / kHeadDim; ++b) {
        double dot = 0;
        for (int i = 0; i < kHeadDim; ++i) dot += rotation[i * bits + a] * rotation[i * bits + b];
        EXPECT_NEAR(dot, a == b ? 1 : 0, 0.02) << a << ", " << b;
      }
    }
  }
}

TEST(HashFileTest, UntrainedFilesAreEqualForEqualSeedsOnly) {
  TempFolder folder;
  for (const auto& [name, seed] : {std::make_pair("a", 1), std::make_pair("b", 1), std::make_pair("c", 2)}) {
    ASSERT_TRUE(WriteUntrainedHashFile(folder.File(name), TinyConfig(), kFingerprint, 3, 1, seed).ok());
  }
  EXPECT_EQ(ReadBytes(folder.File("a")), ReadBytes(folder.File("b")));
  EXPECT_NE(ReadBytes(folder.File("a")), ReadBytes(folder.File("c")));
}

TEST(HashFileTest, RefusesToWriteSenselessUntrainedFiles) {
  TempFolder folder;
  const auto error = [&](int32_t first_layer, int32_t hash_words) {
    return std::string(
        WriteUntrainedHashFile(folder.File("x"), TinyConfig(), kFingerprint, first_layer, hash_words, 1).message());
  };
  EXPECT_EQ(error(4, 4), "first_layer: must be in [0, 3], is 4");
  EXPECT_EQ(error(-1, 4), "first_layer: must be in [0, 3], is -1");
  EXPECT_EQ(error(2, 0), "hash_words: must be 1, 2, 4 or 8, is 0");
  EXPECT_EQ(error(2, 3), "hash_words: must be 1, 2, 4 or 8, is 3");
  EXPECT_EQ(error(2, 9), "hash_words: must be 1, 2, 4 or 8, is 9");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(HashFileTest, FindsTheModelsOwnFileFirst) {
  TempFolder model, shipped;
  const std::string in_shipped = GoodParts().Write(shipped, "b.safetensors");
  EXPECT_EQ(FindHashFile(model.path(), {}, kFingerprint), "");
  EXPECT_EQ(FindHashFile(model.path(), {"/no/such", shipped.path()}, kFingerprint), in_shipped);
  const std::string own = GoodParts().Write(model, "spotlight_hash.safetensors");
  EXPECT_EQ(FindHashFile(model.path(), {shipped.path()}, kFingerprint), own);
}

TEST(HashFileTest, FindsNoFileThatIsUntrainedOrAnotherModels) {
  TempFolder model, shipped;
  Parts other = GoodParts();
  other.metadata["model_fingerprint"] = "b";
  other.Write(shipped, "other.safetensors");
  shipped.Write("broken.safetensors", "broken");
  shipped.Write("readme.txt", "not looked at");
  for (const std::string& path : {shipped.File("untrained.safetensors"), model.File("spotlight_hash.safetensors")}) {
    ASSERT_TRUE(WriteUntrainedHashFile(path, TinyConfig(), kFingerprint, 2, 4, 1).ok());
  }
  EXPECT_EQ(FindHashFile(model.path(), {shipped.path()}, kFingerprint), "");
  const std::string good = GoodParts().Write(shipped, "z.safetensors");
  EXPECT_EQ(FindHashFile(model.path(), {shipped.path()}, kFingerprint), good);
}

TEST(HashFileTest, TheModelsOwnBrokenFileIsFoundSoThatLoadingReportsIt) {
  TempFolder model;
  const std::string own = model.Write("spotlight_hash.safetensors", "broken");
  EXPECT_EQ(FindHashFile(model.path(), {}, kFingerprint), own);
}

}  // namespace
}  // namespace spotlight::engine
