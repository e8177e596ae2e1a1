#include "training/find_or_train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/fingerprint.h"
#include "engine/model/hash_file.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kModel[] = "tests/testdata/tiny-llama";
constexpr uint64_t kSeed = 5;

class FindOrTrainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "find_or_train_test_" + std::to_string(getpid()) + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::create_directories(folder_ + "/model");
    for (const auto& entry : fs::directory_iterator(kModel)) {
      fs::create_symlink(fs::absolute(entry.path()), folder_ + "/model/" + entry.path().filename().string());
    }
    setenv("XDG_CACHE_HOME", (folder_ + "/cache").c_str(), 1);
    load_.model_folder = folder_ + "/model";
    load_.model_name = "tiny";
    load_.device = "cpu";
    load_.dtype = engine::DTypeChoice::kFp32;
  }

  absl::StatusOr<std::string> Find() {
    return FindOrTrainHash(
        load_, {"a.txt", "texts"},
        [this](const TrainOptions& options, const std::function<void(const std::string&)>&,
               const std::function<void(const TrainProgress&)>&, const std::atomic<bool>*) {
          trained_.push_back(options);
          return absl::StatusOr<TrainReport>(TrainReport());
        },
        [this](const std::string& note) { notes_ += note + "\n"; }, nullptr);
  }

  engine::LoadOptions load_;
  std::string folder_, notes_;
  std::vector<TrainOptions> trained_;
};

TEST_F(FindOrTrainTest, TrainsInTheModelsFolderWithItsOptions) {
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, load_.model_folder + "/spotlight_hash.safetensors");
  ASSERT_EQ(trained_.size(), 1u);
  EXPECT_EQ(trained_[0].out, *path);
  EXPECT_THAT(trained_[0].text_paths, ElementsAre("a.txt", "texts"));
  EXPECT_EQ(trained_[0].device, "cpu");
  EXPECT_EQ(trained_[0].dtype, engine::DTypeChoice::kFp32);
  EXPECT_EQ(trained_[0].recipe.steps, 0) << "the device decides";
  EXPECT_THAT(notes_, HasSubstr("to be kept in " + *path));
}

TEST_F(FindOrTrainTest, RandomWeightsGoToTheUsersCache) {
  load_.random_weights_seed = kSeed;
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  const auto config = engine::LoadModelConfig(load_.model_folder);
  const std::string fingerprint = *engine::RandomWeightsFingerprint(*config, kSeed);
  EXPECT_EQ(*path, folder_ + "/cache/spotlight/hashes/tiny-" + fingerprint.substr(0, 12) + ".safetensors");
  EXPECT_TRUE(fs::is_directory(folder_ + "/cache/spotlight/hashes"));
}

TEST_F(FindOrTrainTest, NameWithAnOwnerIsAFileNameToo) {
  load_.random_weights_seed = kSeed;
  load_.model_name = "owner/tiny";
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_THAT(*path, HasSubstr("/cache/spotlight/hashes/owner-tiny-"));
}

TEST_F(FindOrTrainTest, AFileOfTheModelsFolderIsTakenAsItIs) {
  // Unreadable: loading it then says what is wrong, and nothing of the user's is replaced.
  fs::create_directories(load_.model_folder + "/spotlight_hash.safetensors");
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, load_.model_folder + "/spotlight_hash.safetensors");
  EXPECT_TRUE(trained_.empty());
  EXPECT_THAT(notes_, HasSubstr("nothing to train"));
}

TEST_F(FindOrTrainTest, AnotherModelsFileIsNotReplaced) {
  const auto config = engine::LoadModelConfig(load_.model_folder);
  ASSERT_TRUE(
      engine::WriteUntrainedHashFile(load_.model_folder + "/spotlight_hash.safetensors", *config, "another", 2, 4, 1)
          .ok());
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_THAT(*path, HasSubstr("/cache/spotlight/hashes/tiny-"));
}

TEST_F(FindOrTrainTest, ModelsThatCannotBeReadAreErrors) {
  load_.model_folder = folder_ + "/nothing";
  EXPECT_FALSE(Find().ok());
  EXPECT_TRUE(trained_.empty());
}

}  // namespace
}  // namespace spotlight::training
