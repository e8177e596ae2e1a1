#include "training/find_or_train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
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
               const std::function<void(const TrainProgress&)>&,
               const std::atomic<bool>* stop) -> absl::StatusOr<TrainReport> {
          trained_.push_back(options);
          EXPECT_EQ(stop, &stop_);
          if (static_cast<int>(trained_.size()) > times_in_use_) return TrainReport();
          if (in_use_ != nullptr) in_use_(options);
          return absl::UnavailableError(options.out + ": another process is making it");
        },
        [this](const std::string& note) { notes_ += note + "\n"; }, nullptr, &stop_);
  }

  // A hash file of this model, as the other process leaves it.
  void WriteTrained(const std::string& path) {
    const auto config = engine::LoadModelConfig(load_.model_folder);
    const std::string fingerprint =
        *engine::CheckpointFingerprint(**engine::Checkpoint::Open(load_.model_folder), *config);
    ASSERT_TRUE(engine::WriteUntrainedHashFile(path, *config, fingerprint, 2, 4, 1).ok());
    std::stringstream file;
    file << std::ifstream(path, std::ios::binary).rdbuf();
    std::string bytes = file.str();
    const std::string untrained = R"("trained":"false")";
    const size_t found = bytes.find(untrained);
    ASSERT_NE(found, std::string::npos);
    bytes.replace(found, untrained.size(), R"("trained":"true" )");
    std::ofstream(path, std::ios::binary) << bytes;
  }

  engine::LoadOptions load_;
  std::string folder_, notes_;
  std::vector<TrainOptions> trained_;
  int times_in_use_ = 0;  // calls that find another process at work
  std::function<void(const TrainOptions&)> in_use_;
  std::atomic<bool> stop_{false};
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

TEST_F(FindOrTrainTest, AnInterruptedRunOfOtherTextsDoesNotStandInTheWay) {
  ASSERT_TRUE(Find().ok());
  EXPECT_TRUE(trained_[0].replace_progress);
}

TEST_F(FindOrTrainTest, WaitsForAnotherProcessThatMakesTheSameFile) {
  times_in_use_ = 1;
  in_use_ = [&](const TrainOptions& options) { WriteTrained(options.out); };
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, load_.model_folder + "/spotlight_hash.safetensors");
  EXPECT_EQ(trained_.size(), 1u);
  EXPECT_THAT(notes_, HasSubstr("another process is making it; waiting for it"));
  EXPECT_THAT(notes_, HasSubstr("the other process has made this model's hash: " + *path));
}

TEST_F(FindOrTrainTest, TrainsWhenTheOtherProcessEndsWithoutAFile) {
  times_in_use_ = 2;
  const auto path = Find();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(trained_.size(), 3u);
}

TEST_F(FindOrTrainTest, WaitingEndsWhenItIsToldToStop) {
  times_in_use_ = 1000;
  in_use_ = [&](const TrainOptions&) { stop_ = true; };
  EXPECT_EQ(Find().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(trained_.size(), 1u);
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
