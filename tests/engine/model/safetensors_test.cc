#include "engine/model/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

const char kTwoTensors[] = R"({"__metadata__": {"format": "pt"},
  "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
  "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
  "flags": {"dtype": "BOOL", "shape": [4], "data_offsets": [20, 24]},
  "scalar": {"dtype": "F16", "shape": [], "data_offsets": [24, 26]},
  "empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [26, 26]}})";

TEST(SafetensorsTest, HandsOutNamesShapesAndBytes) {
  TempFolder folder;
  const std::string data = "abcdefghijklmnopqrstuvwxyz";
  const std::string path = folder.Write("x.safetensors", SafetensorsBytes(kTwoTensors, data));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->path(), path);
  EXPECT_THAT((*file)->names(), ElementsAre("a", "b", "empty", "flags", "scalar"));
  EXPECT_THAT((*file)->metadata(), ElementsAre(Pair("format", "pt")));

  const absl::StatusOr<TensorView> b = (*file)->Find("b");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->dtype, kernels::DType::kBF16);
  EXPECT_THAT(b->shape, ElementsAre(2, 3));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b->data), b->num_bytes), "ijklmnopqrst");
  EXPECT_EQ((*file)->Find("scalar")->dtype, kernels::DType::kF16);
  EXPECT_THAT((*file)->Find("scalar")->shape, ElementsAre());
  EXPECT_EQ((*file)->Find("empty")->num_bytes, 0u);
}

TEST(SafetensorsTest, RefusesUnsupportedDtypesOnlyWhenAskedForThem) {
  TempFolder folder;
  const std::string path = folder.Write("x.safetensors", SafetensorsBytes(kTwoTensors, std::string(26, 'x')));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Find("flags").status().message(),
            path + ": tensor flags has dtype BOOL; F32, BF16 and F16 are supported");
  EXPECT_TRUE(absl::IsNotFound((*file)->Find("c").status()));
  EXPECT_EQ((*file)->Find("c").status().message(), path + ": has no tensor c");
  EXPECT_TRUE((*file)->Has("flags"));
  EXPECT_FALSE((*file)->Has("c"));
}

TEST(SafetensorsTest, ReleasedTensorsCanBeReadAgain) {
  TempFolder folder;
  std::string data(1 << 20, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 251);
  const std::string header = R"({"a": {"dtype": "F32", "shape": [262144], "data_offsets": [0, 1048576]}})";
  const auto file = SafetensorsFile::Open(folder.Write("x.safetensors", SafetensorsBytes(header, data)));
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView view = *(*file)->Find("a");
  EXPECT_EQ(memcmp(view.data, data.data(), data.size()), 0);
  (*file)->Release(view);
  EXPECT_EQ(memcmp(view.data, data.data(), data.size()), 0);
}

TEST(SafetensorsTest, ReleaseLeavesOtherMemoryAlone) {
  TempFolder folder;
  const auto file = SafetensorsFile::Open(folder.Write("x.safetensors", SafetensorsBytes("{}", "")));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string own(1 << 20, 'x');
  TensorView view;
  view.data = reinterpret_cast<const std::byte*>(own.data());
  view.num_bytes = own.size();
  (*file)->Release(view);
  EXPECT_EQ(own, std::string(1 << 20, 'x'));
}

TEST(SafetensorsTest, AcceptsAHeaderPaddedWithSpaces) {
  TempFolder folder;
  const std::string header = R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}      )";
  EXPECT_TRUE(SafetensorsFile::Open(folder.Write("x.safetensors", SafetensorsBytes(header, "1234"))).ok());
}

struct Corruption {
  const char* header;
  size_t data_bytes;
  const char* message;
};

class SafetensorsCorruptionTest : public testing::TestWithParam<Corruption> {};

TEST_P(SafetensorsCorruptionTest, IsRefusedWithTheFileAndTheReason) {
  TempFolder folder;
  const std::string path =
      folder.Write("x.safetensors", SafetensorsBytes(GetParam().header, std::string(GetParam().data_bytes, 'x')));
  const auto file = SafetensorsFile::Open(path);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(file.status().message()), path + ": " + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, SafetensorsCorruptionTest,
    testing::Values(Corruption{"", 0, "its header is not JSON (at byte 1)"},
                    Corruption{"{", 0, "its header is not JSON (at byte 2)"},
                    Corruption{"{} {}", 0, "its header is not JSON (at byte 4)"},
                    Corruption{"{\"\xff\": 1}", 0, "its header is not JSON (at byte 3)"},
                    Corruption{"[]", 0, "its header is not a JSON object"},
                    Corruption{"7", 0, "its header is not a JSON object"},
                    Corruption{R"({"a": 1})", 0, R"("a" is 1 instead of an object)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1]}})", 4, R"(tensor "a" has no data_offsets)"},
                    Corruption{R"({"a": {"shape": [1], "data_offsets": [0, 4]}})", 4, R"(tensor "a" has no dtype)"},
                    Corruption{R"({"a": {"dtype": "F32", "data_offsets": [0, 4]}})", 4, R"(tensor "a" has no shape)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}})", 4,
                               R"(tensor "a" has an unknown field "x")"},
                    Corruption{R"({"a": {"dtype": 1, "shape": [1], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has 1 in its dtype)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has -1 in its shape)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has 1.0 in its shape)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [[1]], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has a list in its shape)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has a dimension of 18446744073709551615)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [99999999999999999999], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has 99999999999999999999 in its shape)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}})", 4,
                               R"(tensor "a" has 8 in its data_offsets)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}})", 4,
                               R"(tensor "a" has 1 data_offsets instead of 2)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}})", 4,
                               R"(tensor "a" has data_offsets [4, 0] in 4 bytes of data)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})", 4,
                               R"(tensor "a" has data_offsets [0, 8] in 4 bytes of data)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [18446744073709551612, 4]}})", 4,
                               R"(tensor "a" has data_offsets [18446744073709551612, 4] in 4 bytes of data)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has 4 bytes, but its shape and dtype need 8)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}})",
                               0, R"(tensor "a" has a shape that is too large)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [2305843009213693952, 0], "data_offsets": [0, 0]}})",
                               0, R"(tensor "a" has a shape that is too large)"},
                    Corruption{R"({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 0]}})", 0,
                               R"(tensor "a" does not fill its last byte)"},
                    Corruption{R"({"a": {"dtype": "Q4_1", "shape": [1], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has the unknown dtype "Q4_1")"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                       "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
                               8, R"(tensor "b" begins at byte 4, inside another: the data before it ends at 8)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                       "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}})",
                               12, R"(tensor "b" begins at byte 8, after a hole: the data before it ends at 4)"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 5,
                               "has 5 bytes of data, of which tensors cover 4"},
                    Corruption{R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                       "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
                               4, R"(has tensor "a" twice)"},
                    Corruption{R"({"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4,
                               R"(tensor "a" has dtype twice)"},
                    Corruption{R"({"__metadata__": {}, "__metadata__": {}})", 0, "has __metadata__ twice"},
                    Corruption{R"({"__metadata__": {"a": "1", "a": "1"}})", 0, R"(has __metadata__ "a" twice)"},
                    Corruption{R"({"__metadata__": {"a": 1}})", 0, R"(__metadata__ "a" is 1 instead of a string)"},
                    Corruption{R"({"__metadata__": "a"})", 0, R"("__metadata__" is a string instead of an object)"}));

TEST(SafetensorsTest, RefusesFilesShorterThanTheirHeader) {
  TempFolder folder;
  const auto error = [&folder](const std::string& bytes) {
    return std::string(SafetensorsFile::Open(folder.Write("x.safetensors", bytes)).status().message());
  };
  const std::string path = folder.File("x.safetensors");
  EXPECT_EQ(error(""), path + ": has 0 bytes: too short for a safetensors file");
  EXPECT_EQ(error("1234567"), path + ": has 7 bytes: too short for a safetensors file");
  EXPECT_EQ(error(std::string("\x08\0\0\0\0\0\0\0{}", 10)),
            path + ": claims a header of 8 bytes, the file has 2 after its length");
  EXPECT_EQ(error(std::string(8, '\xff')),
            path + ": claims a header of 18446744073709551615 bytes, the file has 0 after its length");
}

TEST(SafetensorsTest, RefusesAHeaderOverTheLimit) {
  TempFolder folder;
  const std::string path = folder.Write("x.safetensors", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));
  std::filesystem::resize_file(path, 100'000'100);  // sparse
  EXPECT_EQ(SafetensorsFile::Open(path).status().message(),
            path + ": claims a header of 100000001 bytes, over the limit of 100000000");
}

TEST(SafetensorsTest, RefusesWhatIsNotAFile) {
  TempFolder folder;
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(folder.File("none")).status()));
  EXPECT_EQ(SafetensorsFile::Open(folder.path()).status().message(), folder.path() + ": is not a file");
}

TEST(SafetensorsTest, ManyNestedListsDoNotExhaustTheStack) {
  TempFolder folder;
  const std::string header = R"({"a": {"shape": )" + std::string(1'000'000, '[');
  const auto file = SafetensorsFile::Open(folder.Write("x.safetensors", SafetensorsBytes(header, "")));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(R"(tensor "a" has a list in its shape)"));
}

}  // namespace
}  // namespace spotlight::engine
