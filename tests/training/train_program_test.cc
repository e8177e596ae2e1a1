// spotlight-train's command line, progress and exit codes, with a scripted training.
#include "training/train_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/reflection.h"
#include "training/train_flags.h"
#include "training/train_progress.h"

namespace spotlight::training {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

absl::StatusOr<TrainCommandLine> Parse(std::vector<const char*> words) {
  absl::FlagSaver saver;
  words.insert(words.begin(), "spotlight-train");
  return ParseTrainCommandLine(static_cast<int>(words.size()), words.data());
}

std::string Error(std::vector<const char*> words) {
  words.insert(words.begin(), {"--model=m", "--text=t", "--out=o"});
  return std::string(Parse(words).status().message());
}

int RunWith(std::vector<const char*> words, const TrainFunction& train) {
  const absl::FlagSaver saver;  // tells stderr what it restores
  words.insert(words.begin(), "spotlight-train");
  return RunTrainProgram(static_cast<int>(words.size()), words.data(), train);
}

TEST(TrainHelpTest, IsTheGoldenText) {
  std::ostringstream golden;
  golden << std::ifstream("tests/training/train_help.txt").rdbuf();
  EXPECT_EQ(TrainHelpText(), golden.str())
      << "after a wanted change: spotlight-train --help > tests/training/train_help.txt";
}

TEST(TrainCommandLineTest, FillsTheOptions) {
  const auto line = Parse({"--model",
                           "m",
                           "--text",
                           "a",
                           "b c,d",
                           "--out",
                           "o",
                           "--text=e",
                           "--steps=7",
                           "--bits",
                           "64",
                           "--loss=bt",
                           "--encoder=paper",
                           "--query=bits",
                           "--per-query-head",
                           "--no-position-mix",
                           "--device=cuda",
                           "--max-memory=1.5",
                           "--checkpoint-seconds=0",
                           "--sequences=9",
                           "--weights=bf16",
                           "--seed=3"});
  ASSERT_TRUE(line.ok()) << line.status();
  const TrainOptions& options = line->options;
  EXPECT_THAT(options.text_paths, ElementsAre("a", "b c,d", "e"));
  EXPECT_EQ(options.out, "o");
  EXPECT_EQ(options.recipe.steps, 7);
  EXPECT_EQ(options.recipe.tokens_per_sequence, 0);
  EXPECT_EQ(options.recipe.hash_bits, 64);
  EXPECT_EQ(options.recipe.loss, Loss::kBradleyTerry);
  EXPECT_EQ(options.recipe.encoder, EncoderKind::kPaper);
  EXPECT_EQ(options.recipe.query, QueryForm::kBits);
  EXPECT_TRUE(options.recipe.per_query_head);
  EXPECT_FALSE(options.recipe.position_mix);
  EXPECT_EQ(options.recipe.seed, 3u);
  EXPECT_EQ(options.device, "cuda");
  EXPECT_EQ(options.max_memory_bytes, 1'500'000'000);
  EXPECT_EQ(options.checkpoint_seconds, 0);
  EXPECT_EQ(options.max_sequences, 9);
  EXPECT_EQ(options.weights, StoredWeights::kBf16);
  EXPECT_EQ(Parse({"--model=m", "--text=t", "--out=o"})->options.weights, StoredWeights::kInt8);
}

TEST(TrainCommandLineTest, DefaultsAreTheRecipesButForTheLengthsThatTheDeviceDecides) {
  const auto line = Parse({"--model=m", "--text=t", "--out=o"});
  ASSERT_TRUE(line.ok()) << line.status();
  Recipe recipe = line->options.recipe;
  EXPECT_EQ(recipe.steps, 0);
  EXPECT_EQ(recipe.tokens_per_sequence, 0);
  recipe.steps = Recipe().steps;
  recipe.tokens_per_sequence = Recipe().tokens_per_sequence;
  EXPECT_EQ(FormatRecipe(recipe), FormatRecipe(Recipe()));
}

TEST(TrainCommandLineTest, ErrorsNameTheFlagAndItsBound) {
  EXPECT_EQ(std::string(Parse({}).status().message()), "--model: names the checkpoint folder and must be given");
  EXPECT_EQ(std::string(Parse({"--model=m"}).status().message()),
            "--text: names the files or folders to train on and must be given");
  EXPECT_EQ(std::string(Parse({"--model=m", "--text=t"}).status().message()),
            "--out: names the hash file to write and must be given");
  EXPECT_EQ(Error({"--text", "--steps=1"}), "--text: needs a value, PATH ...");
  EXPECT_EQ(Error({"--steps=-1"}), "--steps: must be in [0, 1073741824], got -1");
  EXPECT_EQ(Error({"--bits=100"}), "--bits: must be one of 32, 64, 128, 256, got \"100\"");
  EXPECT_EQ(Error({"--planes=5"}), "--planes: must be in [1, 4], got 5");
  EXPECT_EQ(Error({"--prefix-bits=64"}), "--prefix-bits: must be one of 0, 32, got \"64\"");
  EXPECT_EQ(Error({"--loss=mse"}), "--loss: must be one of ce, bt, soft-topk, got \"mse\"");
  EXPECT_EQ(Error({"--encoder=x"}), "--encoder: must be one of z, linear, paper, got \"x\"");
  EXPECT_EQ(Error({"--encoder=paper"}), "--query: must be bits with --encoder paper, got \"real\"");
  EXPECT_EQ(Error({"--weights=fp8"}), "--weights: must be one of int8, bf16, got \"fp8\"");
  EXPECT_EQ(Error({"--learning-rate=nan"}), "--learning-rate: must be a positive number, got nan");
  EXPECT_EQ(Error({"--key-hidden=20"}), "--key-hidden: must be a multiple of 16, got 20");
  EXPECT_EQ(Error({"--device=tpu"}), "--device: must be auto, cpu, cuda or cuda:N, got \"tpu\"");
  EXPECT_EQ(Error({"--checkpoint-seconds=-1"}), "--checkpoint-seconds: must be at least 0, got -1");
  EXPECT_EQ(Error({"--random-weights=x"}), "--random-weights: not a seed: \"x\"");
  EXPECT_EQ(Error({"--stepz=1"}), "--stepz: no such flag; see --help");
}

TEST(TrainProgramTest, ReportsWhatWasMadeAndWhatToDoNext) {
  const auto train = [](const TrainOptions& options, const std::function<void(const std::string&)>& note,
                        const std::function<void(const TrainProgress&)>& progress,
                        const std::atomic<bool>*) -> absl::StatusOr<TrainReport> {
    note("memory: plenty");
    for (int32_t step = 1; step <= 1000; ++step) progress({step, 1000, 9.5, {}, 12345.6, 61});
    TrainReport report;
    report.recipe = options.recipe;
    report.recipe.steps = 1000;
    report.num_sequences = 80;
    report.num_tokens = 81920;
    report.num_heldout_sequences = 4;
    report.heldout_recall = 0.6874;
    report.heldout_mass = 0.65;
    report.heldout_iou = 0.4;
    report.seconds = 3723;
    report.file_bytes = 23'500'000;
    return report;
  };
  CaptureStdout();
  CaptureStderr();
  EXPECT_EQ(RunWith({"--model", "my models/a", "--text=t", "--out=o.safetensors"}, train), 0);
  EXPECT_EQ(GetCapturedStdout(),
            "o.safetensors: 23.5 MB, 128 bits per token and KV head\n"
            "trained on 80 sequences, 81920 tokens, in 1000 steps and 1:02:03\n"
            "held out (4 sequences, 2% of the tokens selected): recall 0.687, attention mass 0.650, IoU 0.400\n"
            "next:\n"
            "  spotlight-eval --model 'my models/a' --hash o.safetensors --text FILE ...\n"
            "  spotlight-server --model 'my models/a' --hash o.safetensors\n");
  // No terminal: the first step, the last, and none of those between that came at once.
  EXPECT_THAT(GetCapturedStderr(), StartsWith("memory: plenty\n"
                                              "step 1/1000  loss 9.500  12346 tokens/s  1:01 left\n"
                                              "step 1000/1000  loss 9.500  12346 tokens/s  1:01 left\n"));
}

TEST(TrainProgramTest, NamesTheNextProgramsAsTheUserHasThem) {
  const TrainFunction train = [](const TrainOptions&, const std::function<void(const std::string&)>&,
                                 const std::function<void(const TrainProgress&)>&,
                                 const std::atomic<bool>*) -> absl::StatusOr<TrainReport> { return TrainReport(); };
  const auto output = [&](const std::string& program) {
    const absl::FlagSaver saver;
    const std::vector<const char*> words = {program.c_str(), "--model=m", "--text=t", "--out=o"};
    CaptureStdout();
    EXPECT_EQ(RunTrainProgram(static_cast<int>(words.size()), words.data(), train), 0);
    return GetCapturedStdout();
  };
  const std::string folder = ::testing::TempDir() + "programs/";
  std::filesystem::create_directories(folder);
  EXPECT_THAT(output("build/training/spotlight-train"), HasSubstr("\n  bin/spotlight-server --model m"));
  std::ofstream(folder + "spotlight-server") << "";
  std::filesystem::permissions(folder + "spotlight-server", std::filesystem::perms::owner_all);
  EXPECT_THAT(output(folder + "spotlight-train"), HasSubstr("\n  " + folder + "spotlight-eval --model m"));
}

TEST(TrainProgramTest, ExitCodesTellWhatHappened) {
  const auto fail = [](absl::Status status) {
    return [status](const TrainOptions&, const std::function<void(const std::string&)>&,
                    const std::function<void(const TrainProgress&)>&,
                    const std::atomic<bool>*) -> absl::StatusOr<TrainReport> { return status; };
  };
  CaptureStderr();
  EXPECT_EQ(RunWith({"--model=m", "--text=t", "--out=o"}, fail(absl::NotFoundError("t: no such file"))), 1);
  EXPECT_THAT(GetCapturedStderr(), StartsWith("spotlight-train: t: no such file\n"));
  EXPECT_EQ(RunWith({"--model=m", "--text=t", "--out=o"}, fail(absl::CancelledError("stopped"))), 4);
  EXPECT_EQ(RunWith({"--modle=m"}, nullptr), 2);
  EXPECT_EQ(RunWith({"--help"}, nullptr), 0);
  EXPECT_EQ(RunWith({"--version"}, nullptr), 0);
}

bool IsSetSoon(const std::atomic<bool>& flag) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!flag && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return flag;
}

TEST(TrainProgramTest, SignalAsksTheRunToStop) {
  for (const int number : {SIGINT, SIGTERM}) {
    const auto train = [number](const TrainOptions&, const std::function<void(const std::string&)>&,
                                const std::function<void(const TrainProgress&)>&,
                                const std::atomic<bool>* stop) -> absl::StatusOr<TrainReport> {
      EXPECT_FALSE(*stop);
      kill(getpid(), number);
      EXPECT_TRUE(IsSetSoon(*stop));
      return absl::CancelledError("stopped");
    };
    EXPECT_EQ(RunWith({"--model=m", "--text=t", "--out=o"}, train), 4);
  }
}

TEST(TrainProgramDeathTest, ASecondSignalEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto train = [](const TrainOptions&, const std::function<void(const std::string&)>&,
                        const std::function<void(const TrainProgress&)>&,
                        const std::atomic<bool>* stop) -> absl::StatusOr<TrainReport> {
    kill(getpid(), SIGINT);
    EXPECT_TRUE(IsSetSoon(*stop));
    kill(getpid(), SIGTERM);
    std::this_thread::sleep_for(std::chrono::seconds(20));
    return absl::CancelledError("still running");
  };
  EXPECT_EXIT(std::_Exit(RunWith({"--model=m", "--text=t", "--out=o"}, train)),
              ::testing::ExitedWithCode(128 + SIGTERM), "");
}

// Bytes below the stack register that are written to while this thread sends a signal.
int64_t StackBytesUsedBy(void (*send)()) {
  static ucontext_t outside, inside;
  std::vector<unsigned char> stack(256 << 10, 0x5a);
  getcontext(&inside);
  inside.uc_stack.ss_sp = stack.data();
  inside.uc_stack.ss_size = stack.size();
  inside.uc_link = &outside;
  makecontext(&inside, send, 0);
  swapcontext(&outside, &inside);
  return stack.end() - std::find_if(stack.begin(), stack.end(), [](unsigned char c) { return c != 0x5a; });
}

// As in a kernel that keeps its stack register in the middle of something else: nothing below it may be written to, by
// a signal to the process, which the thread that trains would take, or to another thread of the computation.
TEST(TrainProgramTest, ASignalWritesNothingOnTheStacksOfTheComputation) {
  constexpr int64_t kFrame = 900;  // a signal's has 1 KB and more
  const TrainFunction train = [&](const TrainOptions&, const std::function<void(const std::string&)>&,
                                  const std::function<void(const TrainProgress&)>&,
                                  const std::atomic<bool>* stop) -> absl::StatusOr<TrainReport> {
    // Without a call that leaves anything on the stack: what raise would need is not told from what a handler has.
    std::thread([&] {
      EXPECT_LT(StackBytesUsedBy([] { syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGTERM); }),
                kFrame);
    }).join();
    EXPECT_FALSE(*stop);
    EXPECT_LT(StackBytesUsedBy([] { syscall(SYS_kill, syscall(SYS_getpid), SIGTERM); }), kFrame);
    EXPECT_TRUE(IsSetSoon(*stop));
    return absl::CancelledError("stopped");
  };
  EXPECT_EQ(RunWith({"--model=m", "--text=t", "--out=o"}, train), 4);
}

TEST(FormatProgressTest, TellsTheHeldOutRecallOnceItIsKnown) {
  EXPECT_EQ(FormatProgress({20, 300, 9.1234, {}, 1234567, 3599.2}, 0.6666),
            "step 20/300  loss 9.123  held-out recall 0.667  1234567 tokens/s  1:00:00 left");
  EXPECT_EQ(FormatSeconds(0), "0:00");
  EXPECT_EQ(FormatSeconds(59.5), "1:00");
}

}  // namespace
}  // namespace spotlight::training
