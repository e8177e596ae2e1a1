#include "engine/model/checkpoint.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using testing::ElementsAre;

std::string OneTensor(const std::string& name) {
  return SafetensorsBytes(R"({")" + name + R"(": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}})",
                          name + std::string(8 - name.size(), '.'));
}

std::string BytesOf(const TensorView& view) {
  return std::string(reinterpret_cast<const char*>(view.data), view.num_bytes);
}

TEST(CheckpointTest, OpensASingleFile) {
  TempFolder folder;
  const std::string path = folder.Write("model.safetensors", OneTensor("a"));
  folder.Write("model.safetensors.index.json", "not read");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Has("a"));
  EXPECT_FALSE((*checkpoint)->Has("b"));
  EXPECT_EQ(BytesOf(*(*checkpoint)->Find("a", {1, 2})), "a.......");
  EXPECT_EQ((*checkpoint)->Find("a", {2, 1}).status().message(),
            path + ": tensor a has shape [1, 2], the model needs [2, 1]");
  EXPECT_EQ((*checkpoint)->Find("b", {1}).status().message(), folder.path() + ": has no tensor b");
  EXPECT_TRUE(absl::IsNotFound((*checkpoint)->Find("b", {1}).status()));
}

TEST(CheckpointTest, FindsEachTensorInItsShard) {
  TempFolder folder;
  folder.Write("1.safetensors", OneTensor("a"));
  folder.Write("2.safetensors", OneTensor("b"));
  folder.Write("model.safetensors.index.json",
               R"({"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->names(), ElementsAre("a", "b"));
  const TensorView b = *(*checkpoint)->Find("b", {1, 2});
  EXPECT_EQ(BytesOf(b), "b.......");
  (*checkpoint)->Release(b);
  EXPECT_EQ(BytesOf(b), "b.......");
}

TEST(CheckpointTest, RefusesFoldersWithoutWeights) {
  TempFolder folder;
  EXPECT_EQ(Checkpoint::Open("/no/such").status().message(), "/no/such: no such folder");
  EXPECT_EQ(Checkpoint::Open(folder.path()).status().message(),
            folder.path() + ": has neither model.safetensors nor model.safetensors.index.json");
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(folder.path()).status()));
}

struct BadIndex {
  const char* index;
  const char* message;
};

class CheckpointIndexTest : public testing::TestWithParam<BadIndex> {};

TEST_P(CheckpointIndexTest, IsRefusedWithTheFileAndTheReason) {
  TempFolder folder;
  folder.Write("1.safetensors", OneTensor("a"));
  const std::string path = folder.Write("model.safetensors.index.json", GetParam().index);
  const auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_FALSE(checkpoint.ok());
  EXPECT_EQ(std::string(checkpoint.status().message()), path + ": " + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, CheckpointIndexTest,
    testing::Values(
        BadIndex{"{", "is not JSON"}, BadIndex{"[]", "is not a JSON object"},
        BadIndex{"{}", "weight_map: must be an object that maps tensor names to files"},
        BadIndex{R"({"weight_map": {}})", "weight_map: must be an object that maps tensor names to files"},
        BadIndex{R"({"weight_map": ["a"]})", "weight_map: must be an object that maps tensor names to files"},
        BadIndex{R"({"weight_map": {"a": 1}})", R"(weight_map: "a": must be a file name, is 1)"},
        BadIndex{R"({"weight_map": {"a": "../1.safetensors"}})",
                 R"(weight_map: "a": must name a file of the same folder, is "../1.safetensors")"},
        BadIndex{R"({"weight_map": {"a": "/etc/passwd"}})",
                 R"(weight_map: "a": must name a file of the same folder, is "/etc/passwd")"},
        BadIndex{R"({"weight_map": {"a": ".."}})", R"(weight_map: "a": must name a file of the same folder, is "..")"},
        BadIndex{R"({"weight_map": {"a": ""}})", R"(weight_map: "a": must name a file of the same folder, is "")"},
        BadIndex{R"({"weight_map": {"a": "1.safetensors\u0000x"}})",
                 R"(weight_map: "a": must name a file of the same folder, is "1.safetensors\u0000x")"},
        BadIndex{R"({"weight_map": {"a": "2.safetensors"}})",
                 "weight_map: names 2.safetensors, which is not in the folder"},
        BadIndex{R"({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}})",
                 R"(weight_map: puts "b" in 1.safetensors, which does not have it)"}));

TEST(CheckpointTest, NamesTheShardThatIsBroken) {
  TempFolder folder;
  const std::string path = folder.Write("1.safetensors", "short");
  folder.Write("model.safetensors.index.json", R"({"weight_map": {"a": "1.safetensors"}})");
  EXPECT_EQ(Checkpoint::Open(folder.path()).status().message(),
            path + ": has 5 bytes: too short for a safetensors file");
}

}  // namespace
}  // namespace spotlight::engine
