// Every weight where it belongs and as its file has it, bit for bit, whatever the device, the types and the pieces.
#include "engine/model/weight_loader.h"

#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "engine/model/random_weights.h"
#include "engine/model/safetensors_values.h"
#include "engine/model/safetensors_writer.h"
#include "engine/model/tensor_list.h"
#include "engine/model/tensor_source.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
const at::Device kDevice(at::kCUDA, 0);
#else
const at::Device kDevice(at::kCPU);
#endif

constexpr int64_t kWidth = 41;
constexpr char kTinyLlama[] = "tests/testdata/tiny-llama";
const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kBFloat16};

struct Stored {
  std::string name;
  kernels::DType dtype;
  int64_t rows;
};
// Of each type; the second is not aligned for its own.
const std::vector<Stored> kStored = {
    {"half", kernels::DType::kF16, 7}, {"full", kernels::DType::kF32, 33}, {"brain", kernels::DType::kBF16, 20}};
constexpr int64_t kRows = 60, kStoredBytes = (2 * 7 + 4 * 33 + 2 * 20) * kWidth;

// Random bits, but no infinity and no NaN: zeros and denormals, ties and what rounds to infinity in bf16.
std::string RandomBytes(const Stored& tensor) {
  std::string bytes;
  uint64_t state = static_cast<uint64_t>(tensor.rows);
  for (int64_t i = 0; i < tensor.rows * kWidth; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    auto bits = static_cast<uint32_t>(state >> 32);
    if (i % 5 == 0) bits &= 0xFFFF8000u;  // half way between two of bf16's
    if (tensor.dtype == kernels::DType::kF32) {
      if (i == 3) bits = 0x7F7FFFFFu;  // the largest float
      if ((bits & 0x7F800000u) == 0x7F800000u) bits ^= 0x40000000u;
      bytes.append(reinterpret_cast<const char*>(&bits), 4);
    } else {
      const uint16_t exponent = tensor.dtype == kernels::DType::kF16 ? 0x7C00 : 0x7F80;
      auto half = static_cast<uint16_t>(bits >> 16);
      if ((half & exponent) == exponent) half ^= 0x4000;
      bytes.append(reinterpret_cast<const char*>(&half), 2);
    }
  }
  return bytes;
}

class WeightLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    mkdir(folder_.c_str(), 0700);
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const Stored& stored : kStored) tensors.push_back({stored.name, stored.dtype, {stored.rows, kWidth}});
    auto writer = SafetensorsWriter::Create(path_, tensors, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const Stored& stored : kStored) {
      const std::string bytes = RandomBytes(stored);
      ASSERT_TRUE((*writer)->Append(bytes.data(), bytes.size()).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
    auto checkpoint = Checkpoint::Open(folder_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    source_ = CheckpointTensors(checkpoint_.get());
  }
  void TearDown() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }

  const c10::InferenceMode no_autograd_;
  // Not by std::filesystem, of which LibTorch brings a version of its own.
  const std::string folder_ = ::testing::TempDir() + "weight_loader_test_" + std::to_string(getpid());
  const std::string path_ = folder_ + "/model.safetensors";
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<TensorSource> source_;
};

// The values' bytes in `dtype`.
std::string BytesOf(const std::vector<float>& values, at::ScalarType dtype) {
  std::string bytes;
  for (const float value : values) {
    const uint16_t rounded = ToBf16(value);
    dtype == at::kFloat ? bytes.append(reinterpret_cast<const char*>(&value), 4)
                        : bytes.append(reinterpret_cast<const char*>(&rounded), 2);
  }
  return bytes;
}

std::string BytesOf(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kCPU).contiguous();
  return std::string(static_cast<const char*>(host.data_ptr()), host.nbytes());
}

TEST_F(WeightLoaderTest, EveryTypeGoesIntoItsPlaceBitForBit) {
  for (const at::ScalarType dtype : kTypes) {
    for (const int64_t piece_bytes : {6, 100, 4096, 64 << 20}) {
      WeightLoader loader(source_.get(), dtype, kDevice, kStoredBytes, nullptr, piece_bytes);
      const at::Tensor fused = loader.Empty({kRows, kWidth});
      std::string expected;
      int64_t begin = 0;
      for (const Stored& stored : kStored) {
        ASSERT_TRUE(loader.LoadInto(stored.name, fused.narrow(0, begin, stored.rows)).ok());
        begin += stored.rows;
        const TensorView view = *checkpoint_->Find(stored.name, {stored.rows, kWidth});
        std::vector<float> values(stored.rows * kWidth);
        ReadFloats(view, 0, stored.rows * kWidth, values.data());
        expected += BytesOf(values, dtype);
      }
      loader.Finish();
      EXPECT_TRUE(BytesOf(fused) == expected) << c10::toString(dtype) << ", pieces of " << piece_bytes;
    }
  }
}

TEST_F(WeightLoaderTest, RandomWeightsDoNotDependOnThePieces) {
  constexpr int64_t kCount = 70'001;
  const auto source = RandomTensors(7);
  std::vector<float> values(kCount);
  FillRandomWeights("w", 7, 0, kCount, values.data());
  for (const at::ScalarType dtype : kTypes) {
    WeightLoader loader(source.get(), dtype, kDevice, 4 * kCount, nullptr, 30'000);
    const auto tensor = loader.Load("w", {kCount});
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_TRUE(BytesOf(*tensor) == BytesOf(values, dtype)) << c10::toString(dtype);
  }
}

TEST_F(WeightLoaderTest, ProgressRisesToAllBytes) {
  std::vector<int64_t> done;
  WeightLoader loader(
      source_.get(), at::kBFloat16, kDevice, kStoredBytes,
      [&](int64_t bytes_done, int64_t bytes_total) {
        EXPECT_EQ(bytes_total, kStoredBytes);
        done.push_back(bytes_done);
      },
      1000);
  for (const Stored& stored : kStored) ASSERT_TRUE(loader.Load(stored.name, {stored.rows, kWidth}).ok());
  EXPECT_EQ(done.size(), 1u + 6u + 2u);
  EXPECT_EQ(done.front(), 2 * 7 * kWidth);
  for (size_t i = 1; i < done.size(); ++i) EXPECT_GT(done[i], done[i - 1]);
  EXPECT_EQ(done.back(), kStoredBytes);
}

TEST_F(WeightLoaderTest, WhatIsNotThereIsNamed) {
  WeightLoader loader(source_.get(), at::kFloat, kDevice, kStoredBytes, nullptr);
  EXPECT_EQ(loader.Load("none", {1}).status().message(), folder_ + ": has no tensor none");
  EXPECT_EQ(loader.Load("half", {kWidth, 7}).status().message(),
            path_ + ": tensor half has shape [7, 41], the model needs [41, 7]");
}

// Of a whole model, whose types and tied embeddings the decoder knows.
TEST_F(WeightLoaderTest, ADecoderCountsEveryTensorOnce) {
  auto config = LoadModelConfig(kTinyLlama);
  auto checkpoint = Checkpoint::Open(kTinyLlama);
  ASSERT_TRUE(config.ok() && checkpoint.ok()) << config.status() << checkpoint.status();
  const auto files = CheckpointTensors(checkpoint->get()), random = RandomTensors(1);
  for (TensorSource* const source : {files.get(), random.get()}) {
    for (const bool tied : {false, true}) {
      if (source == files.get() && tied != config->tie_word_embeddings) continue;
      ModelConfig model = *config;
      model.tie_word_embeddings = tied;
      int64_t all = 0, last = 0;
      for (const TensorSpec& spec : RequiredTensors(model)) {
        const bool stays =
            source == files.get() && kDevice.is_cpu() && !tied && spec.name == "model.embed_tokens.weight";
        if (!stays) all += source->Find(spec.name, spec.shape, at::kFloat)->num_bytes();
      }
      const auto decoder = Decoder::Load(model, source, at::kFloat, kDevice, Quantization::kNone,
                                         [&](int64_t bytes_done, int64_t bytes_total) {
                                           EXPECT_GT(bytes_done, last);
                                           EXPECT_EQ(bytes_total, all);
                                           last = bytes_done;
                                         });
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      EXPECT_EQ(last, all);
    }
  }
}

TEST_F(WeightLoaderTest, ADecoderThatLacksATensorReadsNone) {
  auto config = LoadModelConfig(kTinyLlama);
  auto checkpoint = Checkpoint::Open(kTinyLlama);
  ASSERT_TRUE(config.ok() && checkpoint.ok()) << config.status() << checkpoint.status();
  const auto source = CheckpointTensors(checkpoint->get());
  const std::string missing = LayerTensorName(config->num_layers, "input_layernorm.weight");
  ++config->num_layers;
  const auto decoder = Decoder::Load(*config, source.get(), at::kFloat, kDevice, Quantization::kNone,
                                     [](int64_t, int64_t) { FAIL() << "something was read"; });
  EXPECT_EQ(decoder.status().message(), std::string(kTinyLlama) + ": has no tensor " + missing);
}

}  // namespace
}  // namespace spotlight::engine
