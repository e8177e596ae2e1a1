#include "engine/model/safetensors_writer.h"

#include <string>

#include "engine/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using testing::ElementsAre;
using testing::Pair;

const std::vector<SafetensorsWriter::Tensor> kTensors = {{"b", kernels::DType::kF32, {2}},
                                                         {"a", kernels::DType::kBF16, {3, 1}}};

TEST(SafetensorsWriterTest, WritesWhatTheReaderReads) {
  TempFolder folder;
  const std::string path = folder.File("x.safetensors");
  auto writer = SafetensorsWriter::Create(path, kTensors, {{"note", "\"quoted\"\n"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append("12345", 5).ok());
  ASSERT_TRUE((*writer)->Append("678abcdef", 9).ok());
  EXPECT_FALSE(std::filesystem::exists(path)) << "not before Finish";
  ASSERT_TRUE((*writer)->Finish().ok());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->metadata(), ElementsAre(Pair("note", "\"quoted\"\n")));
  const TensorView b = *(*file)->Find("b");
  const TensorView a = *(*file)->Find("a");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b.data), b.num_bytes), "12345678");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(a.data), a.num_bytes), "abcdef");
  EXPECT_THAT(a.shape, ElementsAre(3, 1));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 8, 0u);
}

TEST(SafetensorsWriterTest, Int8TensorsAreReadAsSuchAndAsNothingElse) {
  TempFolder folder;
  const std::string path = folder.File("x.safetensors");
  auto writer = SafetensorsWriter::Create(
      path, {{"scale", kernels::DType::kF32, {1}}, {"x", kernels::DType::kF32, {1, 3}, /*is_int8=*/true}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const int8_t integers[] = {-127, 0, 127};
  ASSERT_TRUE((*writer)->Append("1234", 4).ok());
  ASSERT_TRUE((*writer)->Append(integers, sizeof(integers)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->HasInt8("x"));
  EXPECT_FALSE((*file)->HasInt8("scale"));
  EXPECT_FALSE((*file)->HasInt8("none"));
  const auto view = (*file)->FindInt8("x");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_THAT(view->shape, ElementsAre(1, 3));
  EXPECT_THAT(std::vector<int8_t>(view->data, view->data + view->num_elements), ElementsAre(-127, 0, 127));
  EXPECT_EQ((*file)->FindInt8("scale").status().message(), path + ": tensor scale has dtype F32, not I8");
  EXPECT_EQ((*file)->FindInt8("none").status().message(), path + ": has no tensor none");
  EXPECT_EQ((*file)->Find("x").status().message(), path + ": tensor x has dtype I8; F32, BF16 and F16 are supported");
}

TEST(SafetensorsWriterTest, LeavesNothingBehindWhenItIsNotFinished) {
  TempFolder folder;
  {
    auto writer = SafetensorsWriter::Create(folder.File("x.safetensors"), kTensors, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Append("12345", 5).ok());
    EXPECT_EQ((*writer)->Finish().message(), folder.File("x.safetensors") + ": 5 bytes for tensors of 14");
    EXPECT_EQ((*writer)->Append("1234567890", 10).message(),
              folder.File("x.safetensors") + ": 15 bytes for tensors of 14");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriterTest, NamesTheFileThatCannotBeWritten) {
  TempFolder folder;
  const std::string path = folder.File("none/x.safetensors");
  EXPECT_EQ(SafetensorsWriter::Create(path, kTensors, {}).status().message(),
            path + ".partial: cannot be written: No such file or directory");
}

}  // namespace
}  // namespace spotlight::engine
