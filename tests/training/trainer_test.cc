// Whole training runs on the tiny checkpoint: what comes out, what resumes, what is refused.
#include "training/trainer.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/fingerprint.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_file_metadata.h"
#include "engine/model/safetensors.h"
#include "training/output_lock.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kModel[] = "tests/testdata/tiny-llama";

std::string Read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    folder_ = ::testing::TempDir() + "trainer_test_" + std::to_string(getpid()) + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::create_directories(folder_);
    // 512 entries of a byte-level vocabulary: about two bytes a token.
    std::ofstream text(Path("text.txt"));
    for (int i = 0; i < 900; ++i) text << "Line " << i * 7919 % 1000 << " of the story of the keeper and the lamp.\n";
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  TrainOptions Options() const {
    TrainOptions options;
    options.model_folder = kModel;
    options.text_paths = {Path("text.txt")};
    options.out = Path("hash.safetensors");
    options.recipe.steps = 6;
    options.recipe.tokens_per_sequence = 256;
    options.recipe.queries_per_step = 16;
    options.device = "cpu";
    options.dtype = engine::DTypeChoice::kFp32;
    options.num_threads = 1;
    return options;
  }

  absl::StatusOr<TrainReport> Train(const TrainOptions& options) {
    notes_.clear();
    return TrainHash(
        options, [this](const std::string& note) { notes_ += note + "\n"; },
        [this](const TrainProgress& progress) {
          last_ = progress;
          losses_[progress.step] = progress.loss;
          if (progress.step == stop_at_) stop_ = true;
        },
        &stop_);
  }

  void ExpectRefusal(const TrainOptions& options, absl::StatusCode code, const std::string& words) {
    const auto report = Train(options);
    EXPECT_EQ(report.status().code(), code) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr(words));
    EXPECT_FALSE(fs::exists(options.out)) << "something was left in the place of the hash file";
    EXPECT_FALSE(fs::exists(options.out + ".lock"));
  }

  absl::StatusOr<engine::HashFile> Load(const std::string& path) {
    const auto config = engine::LoadModelConfig(kModel);
    const auto checkpoint = engine::Checkpoint::Open(kModel);
    const auto fingerprint = engine::CheckpointFingerprint(**checkpoint, *config);
    return engine::LoadHashFile(path, *config, *fingerprint, /*allow_untrained=*/false);
  }

  std::string folder_, notes_;
  TrainProgress last_;
  std::map<int32_t, double> losses_;  // by step, of the latest run that took it
  std::atomic<bool> stop_{false};
  int32_t stop_at_ = -1;
};

TEST_F(TrainerTest, WritesAFileThatTheEngineLoads) {
  const auto report = Train(Options());
  ASSERT_TRUE(report.ok()) << report.status();
  const auto hash = Load(Options().out);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_TRUE(hash->trained);
  EXPECT_EQ(hash->hash_words, 4);
  EXPECT_EQ(hash->prefix_bits, 32);
  EXPECT_EQ(hash->layers.size(), 2u);
  const auto metadata = engine::ParseHashFileMetadata(hash->file->metadata());
  EXPECT_EQ(metadata->recipe, FormatRecipe(report->recipe));
  EXPECT_EQ(metadata->corpus_sha256.size(), 64u);
  EXPECT_THAT(metadata->heldout, AllOf(HasSubstr("\"recall\": 0."), HasSubstr("\"step\": 6")));
  EXPECT_GT(report->heldout_recall, 0);
  EXPECT_EQ(report->file_bytes, static_cast<int64_t>(fs::file_size(Options().out)));
  EXPECT_FALSE(fs::exists(Options().out + ".training"));
  EXPECT_EQ(last_.step, 6);
  EXPECT_THAT(notes_, AllOf(HasSubstr("memory on cpu"), HasSubstr("held out"), HasSubstr("4 layers (2 to hash)")));
}

TEST_F(TrainerTest, Int8FilesAreSmallerAndJudgedAsTheyAreWritten) {
  TrainOptions options = Options();
  options.weights = StoredWeights::kBf16;
  const auto bf16 = Train(options);
  ASSERT_TRUE(bf16.ok()) << bf16.status();
  const auto bf16_hash = Load(options.out);
  ASSERT_TRUE(bf16_hash.ok()) << bf16_hash.status();
  options.weights = StoredWeights::kInt8;
  options.out = Path("int8.safetensors");
  const auto int8 = Train(options);
  ASSERT_TRUE(int8.ok()) << int8.status();
  const auto int8_hash = Load(options.out);
  ASSERT_TRUE(int8_hash.ok()) << int8_hash.status();

  EXPECT_LT(int8->file_bytes, bf16->file_bytes * 0.55);
  EXPECT_TRUE(bf16_hash->dequantised.empty());
  EXPECT_EQ(int8_hash->dequantised.size(), 12u) << "w1, w2 and skip, for keys and queries of two layers";
  EXPECT_NEAR(int8->heldout_recall, bf16->heldout_recall, 0.02);
  EXPECT_NE(int8->heldout_mass, bf16->heldout_mass) << "one of them is not its own file's";
}

TEST_F(TrainerTest, EqualSeedsGiveEqualFilesAndOthersDoNot) {
  TrainOptions options = Options();
  ASSERT_TRUE(Train(options).ok());
  const std::string first = Read(options.out);
  ASSERT_TRUE(Train(options).ok());
  EXPECT_EQ(Read(options.out), first);
  options.recipe.seed = 2;
  ASSERT_TRUE(Train(options).ok());
  EXPECT_NE(Read(options.out), first);
}

TEST_F(TrainerTest, StoppedRunGoesOnToTheSameFile) {
  TrainOptions options = Options();
  ASSERT_TRUE(Train(options).ok());
  const std::string undisturbed = Read(options.out);
  const std::map<int32_t, double> undisturbed_losses = std::exchange(losses_, {});
  fs::remove(options.out);

  stop_at_ = 3;
  const auto stopped = Train(options);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_THAT(std::string(stopped.status().message()), HasSubstr("stopped after step 3 of 6"));
  EXPECT_FALSE(fs::exists(options.out));
  EXPECT_TRUE(fs::exists(options.out + ".training"));

  stop_ = false;
  stop_at_ = -1;
  const auto resumed = Train(options);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->resumed_at_step, 3);
  ASSERT_EQ(losses_.size(), 6u);
  for (const auto& [step, loss] : undisturbed_losses) EXPECT_NEAR(losses_[step], loss, 1e-3 * loss) << step;
  EXPECT_THAT(notes_, HasSubstr("resumed after step 3"));
  EXPECT_EQ(Read(options.out), undisturbed);
  EXPECT_FALSE(fs::exists(options.out + ".training"));
}

TEST_F(TrainerTest, RunStoppedBeforeItsFirstStepLeavesProgressAsItWas) {
  TrainOptions options = Options();
  stop_ = true;
  const auto stopped = Train(options);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_EQ(std::string(stopped.status().message()), "stopped before the first step");
  EXPECT_FALSE(fs::exists(options.out + ".training"));
  EXPECT_TRUE(losses_.empty());
}

TEST_F(TrainerTest, ResumesOnlyTheSameRun) {
  TrainOptions options = Options();
  options.recipe.learning_rate = 2e-3;
  stop_at_ = 2;
  ASSERT_TRUE(absl::IsCancelled(Train(options).status()));
  stop_ = false;
  stop_at_ = -1;
  options.recipe.learning_rate = 1e-3;
  ExpectRefusal(options, absl::StatusCode::kFailedPrecondition,
                "its recipe is lr=0.002, this run's is lr=0.001; delete it");
  options.recipe.learning_rate = 2e-3;
  std::ofstream(Path("text.txt"), std::ios::app) << "One more line.\n";
  ExpectRefusal(options, absl::StatusCode::kFailedPrecondition, "its corpus sha256 is ");
  options.model_folder = "tests/testdata/tiny-qwen2";
  ExpectRefusal(options, absl::StatusCode::kFailedPrecondition,
                "hash.safetensors.training: is the progress of another");
  options = Options();
  options.recipe.learning_rate = 2e-3;
  {
    const auto checkpoint = engine::SafetensorsFile::Open(options.out + ".training");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->metadata().at("identity: device kind"), "cpu");
  }
  std::ofstream(Options().out + ".training") << "not a checkpoint";
  ExpectRefusal(Options(), absl::StatusCode::kInvalidArgument, "is not a training checkpoint; delete it");
}

TEST_F(TrainerTest, AnotherRunsProgressIsReplacedWhereThatIsWanted) {
  TrainOptions options = Options();
  stop_at_ = 2;
  ASSERT_TRUE(absl::IsCancelled(Train(options).status()));
  stop_ = false;
  stop_at_ = -1;
  options.replace_progress = true;
  options.recipe.steps = 4;
  const auto other_recipe = Train(options);
  ASSERT_TRUE(other_recipe.ok()) << other_recipe.status();
  EXPECT_EQ(other_recipe->resumed_at_step, 0);
  EXPECT_THAT(notes_, HasSubstr("its recipe is steps=6, this run's is steps=4; begun anew"));
  std::ofstream(options.out + ".training") << "not a checkpoint";
  ASSERT_TRUE(Train(options).ok());
  EXPECT_THAT(notes_, HasSubstr("is not a training checkpoint; begun anew"));
  EXPECT_FALSE(fs::exists(options.out + ".training"));
}

TEST_F(TrainerTest, TheRecipeNamesTheContextThatTheModelHas) {
  const auto report = Train(Options());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(FormatRecipe(report->recipe), HasSubstr(" target_context=8192 "));
}

TEST_F(TrainerTest, MemoryMayBeBoundedButNotPromised) {
  TrainOptions options = Options();
  options.max_memory_bytes = int64_t{1} << 60;
  ASSERT_TRUE(Train(options).ok());
  EXPECT_THAT(notes_, HasSubstr(" free in all"));
  options.max_memory_bytes = int64_t{1} << 29;
  ASSERT_TRUE(Train(options).ok());
  EXPECT_THAT(notes_, HasSubstr(" left of --max-memory"));
}

TEST_F(TrainerTest, BaselinesAreWrittenForEvaluationAndRefusedByTheEngine) {
  TrainOptions options = Options();
  options.recipe.steps = 2;
  options.recipe.encoder = EncoderKind::kPaper;
  options.recipe.query = QueryForm::kBits;
  options.recipe.per_query_head = true;
  options.recipe.loss = Loss::kBradleyTerry;
  options.recipe.prefix_bits = 0;
  const auto report = Train(options);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto hash = Load(options.out);
  EXPECT_EQ(hash.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(hash.status().message()), HasSubstr("for evaluation only"));
}

TEST_F(TrainerTest, LinearHashIsServed) {
  TrainOptions options = Options();
  options.recipe.steps = 2;
  options.recipe.encoder = EncoderKind::kLinear;
  options.recipe.hash_bits = 64;
  ASSERT_TRUE(Train(options).ok());
  const auto hash = Load(options.out);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->hash_words, 2);
}

TEST_F(TrainerTest, RandomWeightsNeedNoText) {
  TrainOptions options = Options();
  options.text_paths.clear();
  options.random_weights_seed = 5;
  options.recipe.steps = 2;
  ASSERT_TRUE(Train(options).ok());
  EXPECT_THAT(notes_, HasSubstr("measuring cost only"));
}

TEST_F(TrainerTest, MemoryThatDoesNotSufficeIsRefusedWithTheNumbers) {
  TrainOptions options = Options();
  options.max_memory_bytes = 1 << 20;
  ExpectRefusal(options, absl::StatusCode::kResourceExhausted, "memory on cpu: training needs ");
}

TEST_F(TrainerTest, LittleMemoryRunsTheModelAgainAndComesToTheSameFile) {
  TrainOptions options = Options();
  options.max_sequences = 3;
  ASSERT_TRUE(Train(options).ok());
  EXPECT_THAT(notes_, HasSubstr("3 kept there"));
  const std::string with_memory = Read(options.out);
  // As little as is accepted.
  for (options.max_memory_bytes = 4 << 20;; options.max_memory_bytes += 1 << 20) {
    ASSERT_LT(options.max_memory_bytes, int64_t{1} << 30);
    if (Train(options).ok()) break;
  }
  EXPECT_THAT(notes_, HasSubstr("run through the model again"));
  EXPECT_EQ(Read(options.out), with_memory);
}

TEST_F(TrainerTest, BadInputIsOneClearError) {
  TrainOptions options = Options();
  options.text_paths.clear();
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "no text");
  options.text_paths = {Path("nowhere.txt")};
  ExpectRefusal(options, absl::StatusCode::kNotFound, "nowhere.txt: no such file");
  std::ofstream(Path("short.txt")) << "Too short.\n";
  options.text_paths = {Path("short.txt")};
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "tokens, and training needs at least 510");
  fs::create_directories(Path("binaries"));
  std::ofstream(Path("binaries/a.bin"), std::ios::binary) << std::string("\x7f\x45\0\xff", 4);
  options.text_paths = {Path("binaries")};
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "binaries: holds no UTF-8 text among its 1 files");
  options.text_paths = {Path("binaries/a.bin")};
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "a.bin: is not UTF-8 text");

  options = Options();
  options.model_folder = Path("no-model");
  ExpectRefusal(options, absl::StatusCode::kNotFound, "no-model: no such folder");
  options = Options();
  options.device = "cuda:63";
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "cuda:63");
  options = Options();
  options.recipe.first_layer = 4;
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "--first-layer: must be in [0, 3]");
  options = Options();
  options.recipe.tokens_per_sequence = 9000;
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "--tokens-per-sequence: must be in [256, 8192]");
  options = Options();
  options.recipe.queries_per_step = 257;
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "--queries-per-step: must be at most 256");
  options = Options();
  options.text_paths = {"/dev/zero"};
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "/dev/zero: cannot be read: is a device");
  options = Options();
  options.recipe.hash_bits = 100;
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "100");
}

TEST_F(TrainerTest, OutputThatCannotBeWrittenIsFoundBeforeTraining) {
  TrainOptions options = Options();
  options.out = Path("missing/hash.safetensors");
  ExpectRefusal(options, absl::StatusCode::kNotFound, "there is no folder");
  options.out = "/proc/hash.safetensors";
  ExpectRefusal(options, absl::StatusCode::kInvalidArgument, "/proc/hash.safetensors: cannot be written");
  options.out = folder_;
  EXPECT_THAT(std::string(Train(options).status().message()), HasSubstr("is a folder"));
  const auto lock = OutputLock::Acquire(Options().out);
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(Train(Options()).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(TrainerTest, OnlyHashFilesAreReplaced) {
  TrainOptions options = Options();
  options.out = options.text_paths.front();
  const std::string text = Read(options.out);
  const auto over_text = Train(options);
  EXPECT_EQ(over_text.status().code(), absl::StatusCode::kInvalidArgument) << over_text.status();
  EXPECT_THAT(std::string(over_text.status().message()), HasSubstr("text.txt: is there and is no hash file"));
  EXPECT_EQ(Read(options.out), text);
  options.out = Path("model.safetensors");
  fs::copy_file(std::string(kModel) + "/model-00001-of-00002.safetensors", options.out);
  EXPECT_EQ(Train(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TrainerTest, WithoutCheckpointsAnotherRunsProgressIsLeftAlone) {
  TrainOptions options = Options();
  options.recipe.steps = 2;
  options.checkpoint_seconds = 0;
  std::ofstream(options.out + ".training") << "another run's";
  ASSERT_TRUE(Train(options).ok());
  EXPECT_EQ(Read(options.out + ".training"), "another run's");
}

TEST_F(TrainerTest, FullDiskLeavesTheOldFileInPlace) {
  TrainOptions options = Options();
  options.checkpoint_seconds = 0;
  ASSERT_TRUE(engine::WriteUntrainedHashFile(options.out, *engine::LoadModelConfig(kModel), "another", 2, 4, 1).ok());
  const std::string older = Read(options.out);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 64 << 10;
  setrlimit(RLIMIT_FSIZE, &small);
  const auto report = Train(options);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kResourceExhausted) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("hash.safetensors.partial: cannot be written"));
  EXPECT_EQ(Read(options.out), older);
  EXPECT_FALSE(fs::exists(options.out + ".partial"));
}

}  // namespace
}  // namespace spotlight::training
