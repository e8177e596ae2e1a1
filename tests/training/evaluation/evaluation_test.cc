// A whole run of spotlight-eval on a tiny model, and what it says about bad input.
#include "training/evaluation/evaluation.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "absl/strings/match.h"
#include "engine/model/hash_file.h"
#include "training/evaluation/query_set.h"
#include "training/sequence_model.h"

namespace spotlight::training {
namespace {

constexpr char kModel[] = "tests/testdata/tiny-llama";

const EvaluationNote kSilent = [](const std::string&, int64_t, int64_t) {};

std::string WriteText(const std::string& name, int words) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream file(path);
  for (int i = 0; i < words; ++i) file << "word" << i * 7919 % 997 << (i % 9 == 8 ? "\n" : " ");
  return path;
}

std::string WriteHash() {
  SequenceModelOptions options;
  options.model_folder = kModel;
  options.dtype = engine::DTypeChoice::kFp32;
  options.device = "cpu";
  const auto model = SequenceModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status();
  const std::string path = ::testing::TempDir() + "tiny_hash.safetensors";
  EXPECT_TRUE(engine::WriteUntrainedHashFile(path, (*model)->config(), (*model)->fingerprint(), /*first_layer=*/2,
                                             /*hash_words=*/4, /*seed=*/3)
                  .ok());
  return path;
}

EvaluationOptions Options() {
  EvaluationOptions options;
  options.model_folder = kModel;
  options.hash = WriteHash();
  options.texts = {"books=" + WriteText("one.txt", 900), "code=" + WriteText("two.txt", 400)};
  options.contexts = {512};
  options.budgets = {0.1, 0.3};
  options.selectors = {"hash",        "hash-real", "hash-prefilter", "lsh",    "lsh-head", "quest",
                       "quest-group", "magicpig",  "window",         "random", "oracle-a"};
  options.num_queries = 6;
  options.num_sequences = 2;
  options.prefilter_factor = 2;
  options.device = "cpu";
  options.dtype = engine::DTypeChoice::kFp32;
  return options;
}

TEST(EvaluationTest, MeasuresEverySelectorBudgetLayerAndHead) {
  const EvaluationOptions options = Options();
  const auto report = Evaluate(options, kSilent);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->selectors.size(), options.selectors.size() + 1) << "oracle-b is measured too";
  EXPECT_EQ(report->heads.size(), 12u * 2 * 2) << "selectors, budgets, layers 2 and 3 of one KV head";
  EXPECT_GE(report->sequences.size(), 2u);
  for (const SelectorDescription& selector : report->selectors) {
    double previous = 0;
    for (const double budget : options.budgets) {
      const QualityRow* row = FindRow(report->rows, selector.name, budget, 512, "all");
      ASSERT_NE(row, nullptr) << selector.name;
      const double mass_c = row->mean[static_cast<int>(Measure::kMassC)];
      EXPECT_GE(mass_c, previous) << selector.name << ": a larger budget catches more";
      EXPECT_LE(mass_c, 1.0 + 1e-5);
      previous = mass_c;
    }
  }
  const QualityRow* oracle = FindRow(report->rows, "oracle-b", 0.1, 512, "all");
  EXPECT_EQ(oracle->mean[static_cast<int>(Measure::kRecB)], 1);
  const QualityRow* random = FindRow(report->rows, "random", 0.1, 512, "all");
  EXPECT_LT(random->mean[static_cast<int>(Measure::kMassC)], oracle->mean[static_cast<int>(Measure::kMassC)]);
  ASSERT_EQ(report->losses.size(), 2u);
  EXPECT_TRUE(report->losses[0].has_prefilter && report->losses[0].has_quantising);
}

TEST(EvaluationTest, RepeatsItselfAndDependsOnTheSeed) {
  EvaluationOptions options = Options();
  options.selectors = {"hash", "random"};
  const auto first = Evaluate(options, kSilent), second = Evaluate(options, kSilent);
  options.seed = 1;
  const auto other = Evaluate(options, kSilent);
  ASSERT_TRUE(first.ok() && second.ok() && other.ok());
  EXPECT_EQ(ToJson(*first), ToJson(*second));
  EXPECT_NE(first->sequences[0].positions, other->sequences[0].positions);
}

TEST(EvaluationTest, PositionsAreOfTheSecondHalfOnceEach) {
  const std::vector<int64_t> positions = DrawQueryPositions(1001, 64, 5);
  EXPECT_EQ(std::set<int64_t>(positions.begin(), positions.end()).size(), 64u);
  EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
  EXPECT_GE(positions.front(), 500);
  EXPECT_LE(positions.back(), 1000);
  EXPECT_EQ(DrawQueryPositions(20, 64, 5).size(), 10u);
}

std::string ErrorOf(const EvaluationOptions& options) {
  const auto report = Evaluate(options, kSilent);
  EXPECT_FALSE(report.ok());
  return std::string(report.status().message());
}

TEST(EvaluationTest, NamesWhatIsWrong) {
  EvaluationOptions options = Options();
  options.hash = "no/such.safetensors";
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "no/such.safetensors"));
  options = Options();
  options.hash = "auto";
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "found no trained hash")) << ErrorOf(options);
  options = Options();
  options.contexts = {4096};
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "tokens, a sequence needs 4096")) << ErrorOf(options);
  options.contexts = {1 << 20};
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "--context 1048576: the model's own limit is")) << ErrorOf(options);
  options = Options();
  options.selectors = {"clairvoyant"};
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "must be one of oracle-a, oracle-b"));
  options = Options();
  options.selectors = {"window"};
  options.fidelity = true;
  EXPECT_EQ(ErrorOf(options), "--fidelity: needs a hash that can be served, --hash FILE and selector hash");
  options.fidelity = false;
  options.needle = true;
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "--needle: task needle: its shortest text has ")) << ErrorOf(options);
  options = Options();
  options.texts = {"nowhere.txt"};
  EXPECT_EQ(ErrorOf(options), "nowhere.txt: no such file or folder");
  options = Options();
  options.model_folder = "no/model";
  EXPECT_TRUE(absl::StrContains(ErrorOf(options), "no/model"));
}

// Where everything may be selected, nothing is lost.
TEST(EvaluationTest, MeasuresWholeRunsWhenAsked) {
  EvaluationOptions options = Options();
  options.selectors = {"hash", "window"};
  options.budgets = {1.0};
  options.num_sequences = 1;
  options.perplexity = true;
  options.fidelity = true;
  const auto report = Evaluate(options, kSilent);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->perplexity.size(), 2u * 3 * 3) << "texts, kinds, selectors with oracle-b";
  EXPECT_EQ(report->perplexity[0].text, "books/one");
  for (const PerplexityRow& row : report->perplexity) EXPECT_NEAR(row.value, row.dense, 1e-3 * row.dense);
  ASSERT_EQ(report->fidelity.size(), 2u);
  for (const FidelityRow& row : report->fidelity) EXPECT_EQ(row.agreement, 1);
  EXPECT_FALSE(ToTable(*report).empty());
}

TEST(EvaluationTest, AnswersThatAreLeftOutAreNotLeftOutInSilence) {
  EvaluationOptions options = Options();
  options.selectors = {"window"};
  options.budgets = {0.3};
  options.texts.resize(1);
  options.num_sequences = 1;
  options.contexts = {1600};
  options.needle = true;
  const auto report = Evaluate(options, kSilent);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->needle.empty());
  EXPECT_TRUE(report->needle_answers.empty());
  ASSERT_EQ(report->notes.size(), 1u);
  EXPECT_TRUE(absl::StrContains(ToTable(*report), "\nnote: --needle: by likelihood alone; ")) << ToTable(*report);
  EXPECT_TRUE(absl::StrContains(ToJson(*report), "\"--needle: by likelihood alone; "));
}

TEST(EvaluationFlagsTest, NameTheFlagTheValueAndTheBound) {
  const auto error = [](std::vector<const char*> words) {
    words.insert(words.begin(), "spotlight-eval");
    const auto line = ParseEvaluationFlags(static_cast<int>(words.size()), words.data());
    EXPECT_FALSE(line.ok());
    return std::string(line.status().message());
  };
  EXPECT_EQ(error({}), "--model: is required; see --help");
  EXPECT_EQ(error({"--model", "m", "--budget", "0.02,2"}), "--budget: must be above 0 and up to 1, got \"2\"");
  EXPECT_EQ(error({"--model", "m", "--budget", "0.02", "--context", "100"}),
            "--context: must be at least 512 tokens, got \"100\"");
  EXPECT_EQ(error({"--model", "m", "--context", "8192", "--queries", "0"}), "--queries: must be at least 1, got \"0\"");
  EXPECT_EQ(error({"--model", "m", "--queries", "4", "--dtype", "fp8"}),
            "--dtype: must be auto, bf16 or fp32, got \"fp8\"");
  EXPECT_EQ(error({"--model", "m", "--dtype", "auto", "--quantization", "int4"}),
            "--quantization: must be none or fp8, got \"int4\"");
  EXPECT_EQ(error({"--model", "m", "--quantization", "none", "--kv-cache-dtype", "int8"}),
            "--kv-cache-dtype: must be auto or fp8, got \"int8\"");
  EXPECT_EQ(error({"--model", "m", "--kv-cache-dtype", "fp8", "--device", "tpu"}),
            "--device: must be auto, cpu or cuda:N, got \"tpu\"");
  EXPECT_TRUE(absl::StrContains(error({"--model", "m", "--device", "cpu", "--selectors", "hash,clairvoyant"}),
                                "--selectors: selector clairvoyant: must be one of oracle-a, "));
  EXPECT_TRUE(absl::StrContains(error({"--model", "m", "--selectors", "hash,hash"}), "hash: given twice"));
  EXPECT_TRUE(absl::StrContains(error({"--model", "m", "--selectors", "quest:a"}), "quest:a: must be one of"));
  EXPECT_EQ(error({"--model", "m", "--selectors", "hash:"}), "--selectors: selector hash:: names no file");
  EXPECT_TRUE(absl::StrContains(error({"--model", "m", "--selectors", "hash"}),
                                "--text: must be given: training/texts/eval is neither in this folder nor "));
  EXPECT_TRUE(absl::StrContains(EvaluationHelp(), "*.safetensors. Required"));
  EXPECT_TRUE(absl::StrContains(EvaluationHelp(), "--version"));
  EXPECT_TRUE(absl::StrContains(EvaluationHelp(), "Exit codes: 0 done, "));
}

}  // namespace
}  // namespace spotlight::training
